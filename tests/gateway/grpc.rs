//! gRPC through the gateway, to a server of tonic's and from a client of tonic's.

use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower_quota::GatewayOptions;

use crate::front::Front;
use crate::rows::State;
use crate::shop::{Client, Shop, all};

/// A gateway in front of [`Shop`].
fn front() -> (Front, Client) {
    let front = Front::to_be_served(|runtime| {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(Shop);
        runtime.spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        GatewayOptions::upstream(format!("http://{address}")).http2(true)
    });
    let client = front.runtime.block_on(Client::connect(front.address));
    (front, client)
}

#[test]
fn the_status_of_a_call_settles_it() {
    let (front, mut client) = front();
    assert_eq!(front.runtime.block_on(client.create(0)).unwrap(), b"done");
    assert_eq!(front.state(), State { believed: 1, reserved: 0 });
    // In the trailers, behind messages; and in the head, without any.
    for (code, expected) in [(0, State { believed: 1, reserved: 0 }), (6, State { believed: 0, reserved: 0 })] {
        let messages = front.runtime.block_on(async { all(client.import(code).await.unwrap()).await });
        assert_eq!(messages.map_err(|status| status.code()), if code == 0 { Ok(3) } else { Err(Code::AlreadyExists) });
        assert_eq!(front.state(), expected, "{code}");
        let created = front.runtime.block_on(client.create(code));
        assert_eq!(created.is_ok(), code == 0, "{created:?}");
        assert_eq!(front.state(), expected, "{code}");
    }
    front.runtime.block_on(client.create(13)).unwrap_err();
    assert_eq!(front.state(), State { believed: 0, reserved: 1 });
    front.settled();
}

#[test]
fn a_refusal_is_resource_exhausted() {
    let (front, mut client) = front();
    front.world.set("segments", 50);
    let refused = front.runtime.block_on(client.create(0)).unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "Segment quota exceeded"));
    assert_eq!(front.runtime.block_on(client.import(0)).unwrap_err().code(), Code::ResourceExhausted);
    // Another call on the same connection.
    front.world.set("segments", 49);
    front.runtime.block_on(client.create(0)).unwrap();
}

#[test]
fn a_stream_is_a_stream() {
    let (front, mut client) = front();
    front.runtime.block_on(async {
        // It never ends by itself.
        let mut stream = client.import(99).await.unwrap();
        for at in 0..3 {
            assert_eq!(stream.message().await.unwrap().unwrap(), [at]);
        }
        assert_eq!(front.world.state("segments").await, State { believed: 0, reserved: 1 });
        drop(stream);
        front.world.settled("segments").await;
    });
}
