//! The dashboard in the service: where it is, who gets in, and that it can be left out.

use crate::host::{ACME, ADMIN, Folder, Service};
use crate::support::client::Answer;
use crate::support::quickstart::Server;

/// What a form of a page of this site comes with: a connection says that its host is `quickstart`.
const FORM: [(&str, &str); 2] =
    [("origin", "http://quickstart"), ("content-type", "application/x-www-form-urlencoded")];

/// A browser that has signed in.
struct Browser<'a> {
    service: &'a Service,
    cookie: String,
}

impl<'a> Browser<'a> {
    #[track_caller]
    fn sign_in(service: &'a Service, path: &str, token: &str) -> Self {
        let answer = service.connect().send_with("POST", &format!("{path}/sign-in"), &FORM, &format!("token={token}"));
        let answer = answer.expect(303);
        assert_eq!(answer.header("location"), Some(path), "{answer}");
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.contains(&format!("Path={path};")) && cookie.contains("HttpOnly"), "{cookie}");
        Self { service, cookie: cookie.split(';').next().unwrap().to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.service.connect().send_with("GET", path, &[("cookie", &self.cookie)], "")
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        let [origin, form] = FORM;
        self.service.connect().send_with("POST", path, &[("cookie", &self.cookie), origin, form], body)
    }
}

#[test]
fn it_is_where_it_was_told_to_be() {
    let folder = Folder::new(Server::Sqlite);
    folder.append("[dashboard]\npath = \"/pages/quotas\"\n");
    folder.insert(2);
    let service = folder.start();
    assert_eq!((service.probe("/dashboard"), service.probe("/pages")), (Some(404), Some(404)));
    let slash = service.connect().send("GET", "/pages/quotas/", "").expect(308);
    assert_eq!(slash.header("location"), Some("/pages/quotas"));
    let stranger = service.connect().send("GET", "/pages/quotas/workspaces/acme", "").expect(303);
    assert_eq!(stranger.header("location"), Some("/pages/quotas/sign-in?then=%2Fpages%2Fquotas%2Fworkspaces%2Facme"));
    let page = service.connect().send("GET", "/pages/quotas/sign-in", "").expect(200);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"), "{page}");
    let page = page.text();
    let style = page.split("href=\"").find_map(|rest| rest.split('"').next().filter(|link| link.ends_with(".css")));
    let style = style.filter(|link| link.starts_with("/pages/quotas/assets/")).unwrap();
    service.connect().send("GET", style, "").expect(200);

    // The rights are those that the token has over the API, and what is changed is told with where it came from.
    let admin = Browser::sign_in(&service, "/pages/quotas", ADMIN);
    let page = admin.get("/pages/quotas/workspaces/acme").expect(200).text();
    let field = |name: &str| {
        let rest = page.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("{name}: {page}"));
        rest.split('"').next().unwrap().to_owned()
    };
    let (form, version) = (field("form"), field("version"));
    let raise = format!("form={form}&version={version}&resource=segments&limit=7&reason=asked");
    admin.post("/pages/quotas/workspaces/acme/limits", &raise).expect(303);
    let mut api = service.admin();
    let quota = api.send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
    assert_eq!(quota["quota"]["maxSegments"], 7, "{quota}");
    let audit = api.send("GET", "/api/workspaces/acme/quota/audit", "").expect(200).json();
    let newest = &audit["entries"][0];
    assert_eq!((&newest["actor"], &newest["origin"]), (&"operators".into(), &"dashboard 127.0.0.1".into()), "{audit}");
    let member = Browser::sign_in(&service, "/pages/quotas", ACME);
    member.get("/pages/quotas/workspaces/acme").expect(200);
    member.get("/pages/quotas/workspaces/globex").expect(403);
}

#[test]
fn a_session_ends_with_its_token() {
    let folder = Folder::new(Server::Sqlite);
    let service = folder.start();
    let admin = Browser::sign_in(&service, "/dashboard", ADMIN);
    admin.get("/dashboard").expect(200);
    folder.private("admin-token", "another-s3cret");
    service.reload();
    admin.get("/dashboard").expect(303);
    Browser::sign_in(&service, "/dashboard", "another-s3cret").get("/dashboard").expect(200);
}

#[test]
fn it_can_be_left_out() {
    let folder = Folder::new(Server::Sqlite);
    // Its path is free then.
    folder.append("[dashboard]\nenabled = false\n[metrics]\npath = \"/dashboard\"\n");
    let service = folder.start();
    for path in ["/dashboard/", "/dashboard/sign-in"] {
        assert_eq!(service.probe(path), Some(404), "{path}");
    }
    let metrics = service.connect().send("GET", "/dashboard", "").expect(200).text();
    assert!(metrics.contains("tower_quota_workspaces"), "{metrics}");
}
