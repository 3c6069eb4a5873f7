//! A gateway on a socket, with the layer around it.

use std::net::SocketAddr;

use http::{HeaderName, Method};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower::Layer;
use tower_quota::{Charge, ClientConnection, Gateway, GatewayOptions, QuotaLayer, RouteMap, Rule, WorkspaceSource};

use crate::rows::{State, World};
use crate::support::client::Connection;
use crate::upstream::Upstream;

/// `POST /acme/segments` makes a segment of acme's, of which there may be 50; so do `POST /named`, which names the workspace in
/// its body, and the calls of [`Shop`](crate::shop::Shop).
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) world: World,
    // Its end is the end of all connections.
    pub(crate) runtime: Runtime,
}

const WORKSPACE: HeaderName = HeaderName::from_static("x-workspace");

fn routes(world: &World) -> RouteMap {
    let rule = |name: &str, path: &str| Rule::new(name, Method::POST, path).charge(Charge::of("segments"));
    RouteMap::builder(world.quota.catalog())
        .rule(rule("create", "/{ws}/segments").workspace(WorkspaceSource::path("ws")))
        .rule(rule("named", "/named").workspace(WorkspaceSource::body("/workspace")))
        .rule(rule("call", "/shop.v1.Segments/{method}").workspace(WorkspaceSource::header(WORKSPACE)))
        .build()
        .unwrap()
}

impl Front {
    pub(crate) fn of(upstream: &Upstream) -> Self {
        Self::with(GatewayOptions::upstream(upstream.url()))
    }

    pub(crate) fn with(options: GatewayOptions) -> Self {
        Self::to_be_served(|_| options)
    }

    /// With an upstream that runs beside it.
    pub(crate) fn to_be_served(upstream: impl FnOnce(&Runtime) -> GatewayOptions) -> Self {
        let runtime = Runtime::new().unwrap();
        let options = upstream(&runtime);
        let (address, world) = runtime.block_on(async {
            let world = World::new(&[("segments", 50)], |builder| builder).await;
            let layer = QuotaLayer::reading_bodies(world.quota.clone(), routes(&world)).unwrap();
            let service = layer.layer(Gateway::new(options).unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                loop {
                    let (stream, peer) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let (stream, service) = ClientConnection::new(peer).guard(stream, service.clone());
                    tokio::spawn(async move {
                        let http = auto::Builder::new(TokioExecutor::new());
                        let service = TowerToHyperService::new(service);
                        drop(http.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
                    });
                }
            });
            (address, world)
        });
        Self { address, world, runtime }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    /// What is known of segments now; see [`World::state`].
    pub(crate) fn state(&self) -> State {
        self.runtime.block_on(self.world.state("segments"))
    }

    /// Lets abandoned units be settled, and waits until none are left.
    pub(crate) fn settled(&self) {
        self.runtime.block_on(self.world.settled("segments"));
    }
}
