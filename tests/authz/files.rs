//! Files as rows: what a workspace has is what is in its folder.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tempfile::TempDir;
use tower_quota::{
    Charge, ClosureUsage, Decoding, EnforcementMode, Limit, MemoryStore, Operation, PathReading, Quota, QuotaBuilder,
    ResourceCatalog, ResourceSpec, RouteMap, Rule, Settling, WorkspaceSource,
};

/// No request takes longer here, on the slowest machine.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// For tests that wait until units are settled.
pub(crate) const SHORT: Duration = Duration::from_secs(2);

pub(crate) struct Files {
    folder: TempDir,
    pub(crate) quota: Quota,
    pub(crate) routes: RouteMap,
}

impl Files {
    /// A limit of three files for each workspace, in mode `enforce`.
    pub(crate) fn new(set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = ResourceSpec::new("files", "maxFiles", Limit::of(3));
        let catalog = ResourceCatalog::empty().resource(files).build().unwrap();
        let root: Arc<Path> = Arc::from(folder.path());
        let usage = ClosureUsage::new(move |workspace, _, _| {
            let folder = root.join(workspace.as_str());
            async move { count(&folder) }
        });
        let quota = Quota::builder(catalog.clone())
            .store(MemoryStore::new())
            .usage(usage)
            .mode(EnforcementMode::Enforce)
            .max_wait(Duration::from_millis(20))
            .settling(Settling::After(LONGEST));
        // As nginx reads paths before it looks for a file.
        let nginx =
            Decoding::new().encoded_slash(true).merge_slashes(true).dot_segments(true).ignore_trailing_slash(true);
        let of = |name, method| {
            Rule::new(name, method, "/{workspace}/{name}")
                .workspace(WorkspaceSource::path("workspace"))
                .charge(Charge::of("files"))
        };
        let routes = RouteMap::builder(&catalog)
            .path_reading(PathReading::Decoded(nginx))
            .rule(of("write", Method::PUT))
            .rule(of("delete", Method::DELETE).operation(Operation::Delete))
            .build()
            .unwrap();
        Self { folder, quota: set_up(quota).build().unwrap(), routes }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn workspace(&self, name: &str) {
        fs::create_dir(self.path().join(name)).unwrap();
    }

    pub(crate) fn number(&self, workspace: &str) -> u64 {
        count(&self.path().join(workspace)).unwrap()
    }
}

fn count(folder: &Path) -> io::Result<u64> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(u64::try_from(entries.count()).unwrap()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}
