//! What is there to begin with, for Envoy. That for nginx is what the tests of nginx run.

use std::fs;
use std::path::Path;

use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use prost::Name;
use tower_quota::RouteMap;
use yaml_rust2::{Yaml, YamlLoader};

#[test]
fn envoys_configuration_says_what_the_service_needs() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/envoy.yaml")).unwrap();
    let [config] = &YamlLoader::load_from_str(&text).unwrap()[..] else { panic!("one document") };
    let resources = &config["static_resources"];
    let manager = &resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let [reads, asks, forwards] = [0, 1, 2].map(|filter| &manager["http_filters"][filter]["typed_config"]);
    let named = |typed: &Yaml| typed["@type"].as_str().unwrap().to_owned();
    assert_eq!(named(manager), HttpConnectionManager::type_url());
    assert_eq!(named(reads), Buffer::type_url());
    assert_eq!(named(asks), ExtAuthz::type_url());
    assert_eq!(named(forwards), Router::type_url());

    for (name, value) in [("failure_mode_allow", false), ("encode_raw_headers", true)] {
        assert_eq!(asks[name].as_bool(), Some(value), "{name}");
    }
    let body = &asks["with_request_body"];
    let cap = i64::try_from(RouteMap::DEFAULT_BODY_CAP).unwrap();
    assert_eq!(body["max_request_bytes"].as_i64(), Some(cap));
    for name in ["allow_partial_message", "pack_as_bytes"] {
        assert_eq!(body[name].as_bool(), Some(true), "{name}");
    }

    let clusters = resources["clusters"].as_vec().unwrap();
    let cluster = |name: &Yaml| clusters.iter().find(|cluster| &cluster["name"] == name).unwrap();
    let asked = cluster(&asks["grpc_service"]["envoy_grpc"]["cluster_name"]);
    let protocol = &asked["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(named(protocol), HttpProtocolOptions::type_url());
    assert!(protocol["explicit_http_config"]["http2_protocol_options"].as_hash().is_some());
    cluster(&manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"]);
}
