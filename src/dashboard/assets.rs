//! What the pages need beside themselves. It comes with the crate, by paths that change with it.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use sha2::{Digest, Sha256};

use super::Desk;
use super::gate;
use super::session::hex;

const FILES: [(&str, &str, &str); 3] = [
    ("dashboard.css", "text/css; charset=utf-8", include_str!("assets/dashboard.css")),
    ("dashboard.js", "text/javascript; charset=utf-8", include_str!("assets/dashboard.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Where they are, by what is in them.
pub(super) struct Assets {
    hash: String,
}

impl Assets {
    pub(super) fn new() -> Self {
        let all = FILES.iter().fold(Sha256::new(), |all, (_, _, text)| all.chain_update(text));
        let mut hash = hex(&all.finalize());
        hash.truncate(16);
        Self { hash }
    }

    /// The path of a file, below the mount point.
    pub(super) fn path(&self, file: &str) -> String {
        format!("/assets/{}/{file}", self.hash)
    }
}

pub(super) async fn serve(State(desk): State<Desk>, Path((hash, file)): Path<(String, String)>) -> Response {
    let found = FILES.iter().find(|(name, _, _)| *name == file && hash == desk.assets().hash);
    match found {
        Some((_, kind, text)) => {
            let headers =
                [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, *text).into_response()
        }
        None => gate::no_page().into_response(),
    }
}
