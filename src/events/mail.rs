//! What e-mails say.

use jiff::Timestamp;

/// An e-mail, but for whom it is from and to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    /// The subject: one line.
    pub(crate) subject: String,
    /// The body as plain text.
    pub(crate) text: String,
    /// The body as an HTML document.
    pub(crate) html: String,
}

/// A threshold that was crossed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NoticeMail<'a> {
    /// In which workspace.
    pub(crate) workspace: &'a str,
    /// What the resource type is called, such as `Segment`.
    pub(crate) resource_label: &'a str,
    /// The name of the resource type, such as `segments`.
    pub(crate) resource_type: &'a str,
    /// Rows that existed.
    pub(crate) current_usage: u64,
    /// The limit in force.
    pub(crate) limit: u64,
    /// Usage in whole percent of the limit.
    pub(crate) percent: u64,
    /// `warning`, `critical` or `exceeded`.
    pub(crate) threshold: &'a str,
    /// When it was crossed.
    pub(crate) at: Timestamp,
    /// Where the limit can be seen and changed.
    pub(crate) manage_url: Option<&'a str>,
}

impl Mail {
    /// The e-mail that tells of `notice`.
    pub(crate) fn notice(notice: NoticeMail<'_>) -> Self {
        let NoticeMail { current_usage, limit, percent, at, .. } = notice;
        // Names are the tenants' own, and a line that they end would be followed by one that they have written.
        let [workspace, label, resource_type, threshold] =
            [notice.workspace, notice.resource_label, notice.resource_type, notice.threshold].map(one_line);
        let what = format!("{label} quota {threshold} in workspace {workspace}");
        let used = format!("{current_usage} of {limit} ({percent} %)");
        let consequence = if current_usage >= limit {
            "The limit has been reached. Where quotas are enforced, no more can be created until some are removed or the limit \
             is raised."
        } else {
            "Where quotas are enforced, no more can be created once the limit has been reached."
        };
        let manage_url = notice.manage_url.map(one_line);

        let link = manage_url.as_ref().map(|url| format!("\nManage quotas: {url}\n")).unwrap_or_default();
        let text = format!(
            "{what}.\n\n\
             Workspace: {workspace}\n\
             Resource type: {resource_type}\n\
             Usage: {used}\n\
             Threshold: {threshold}\n\
             Time: {at}\n\n\
             {consequence}\n{link}"
        );

        let [what_html, workspace, resource_type, threshold] =
            [&what, &workspace, &resource_type, &threshold].map(|text| escaped(text));
        let link = manage_url.map(|url| format!("<p><a href=\"{}\">Manage quotas</a></p>\n", escaped(&url)));
        let link = link.unwrap_or_default();
        let html = format!(
            "<!DOCTYPE html>\n\
             <html lang=\"en\">\n\
             <head><meta charset=\"utf-8\"><title>{what_html}</title></head>\n\
             <body>\n\
             <h1>{what_html}</h1>\n\
             <table>\n\
             <tr><th align=\"left\">Workspace</th><td>{workspace}</td></tr>\n\
             <tr><th align=\"left\">Resource type</th><td>{resource_type}</td></tr>\n\
             <tr><th align=\"left\">Usage</th><td>{used}</td></tr>\n\
             <tr><th align=\"left\">Threshold</th><td>{threshold}</td></tr>\n\
             <tr><th align=\"left\">Time</th><td>{at}</td></tr>\n\
             </table>\n\
             <p>{consequence}</p>\n\
             {link}</body>\n\
             </html>\n"
        );
        Self { subject: format!("{what}: {used}"), text, html }
    }
}

/// `text` without control characters and line separators.
pub(crate) fn one_line(text: &str) -> String {
    let ends_line = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
    text.replace(ends_line, " ")
}

/// `text` as it is written in HTML, between tags and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice<'a>() -> NoticeMail<'a> {
        NoticeMail {
            workspace: "acme",
            resource_label: "Segment",
            resource_type: "segments",
            current_usage: 50,
            limit: 50,
            percent: 100,
            threshold: "exceeded",
            at: "2024-01-30T10:00:00Z".parse().unwrap(),
            manage_url: None,
        }
    }

    #[test]
    fn a_notice_says_what_is_exceeded_and_where() {
        let mail = Mail::notice(notice());
        assert_eq!(mail.subject, "Segment quota exceeded in workspace acme: 50 of 50 (100 %)");
        assert_eq!(
            mail.text,
            "Segment quota exceeded in workspace acme.\n\n\
             Workspace: acme\nResource type: segments\nUsage: 50 of 50 (100 %)\nThreshold: exceeded\n\
             Time: 2024-01-30T10:00:00Z\n\n\
             The limit has been reached. Where quotas are enforced, no more can be created until some are removed or the \
             limit is raised.\n"
        );
        for part in
            ["<h1>Segment quota exceeded in workspace acme</h1>", "<td>50 of 50 (100 %)</td>", "<td>segments</td>"]
        {
            assert!(mail.html.contains(part), "{part}: {}", mail.html);
        }
        assert!(!mail.html.contains("href"));
    }

    #[test]
    fn below_the_limit_nothing_is_said_to_be_reached() {
        let mail = Mail::notice(NoticeMail { current_usage: 48, percent: 96, threshold: "critical", ..notice() });
        assert_eq!(mail.subject, "Segment quota critical in workspace acme: 48 of 50 (96 %)");
        for body in [&mail.text, &mail.html] {
            assert!(body.contains("once the limit has been reached") && !body.contains("The limit has been"), "{body}");
        }
    }

    #[test]
    fn names_stay_text_in_html() {
        let mail = Mail::notice(NoticeMail {
            workspace: "<b>&\"'</b>",
            resource_label: "<i>",
            resource_type: "<u>",
            threshold: "<s>",
            manage_url: Some("https://example.com/?a=1&b=\"><script>"),
            ..notice()
        });
        for tag in ["<b>", "<i>", "<u>", "<s>", "<script>", "\"'"] {
            assert!(!mail.html.contains(tag), "{tag}: {}", mail.html);
        }
        assert!(mail.html.contains("<td>&lt;b&gt;&amp;&quot;&#39;&lt;/b&gt;</td>"), "{}", mail.html);
        assert!(
            mail.html.contains("href=\"https://example.com/?a=1&amp;b=&quot;&gt;&lt;script&gt;\""),
            "{}",
            mail.html
        );
        assert!(mail.text.contains("Workspace: <b>&\"'</b>\n"), "{}", mail.text);
        assert!(mail.text.ends_with("\nManage quotas: https://example.com/?a=1&b=\"><script>\n"), "{}", mail.text);
    }

    #[test]
    fn names_add_no_lines() {
        let plain = Mail::notice(notice());
        let mail = Mail::notice(NoticeMail { workspace: "a\r\nBcc: b\u{2028}c\u{85}", ..notice() });
        assert!(mail.subject.contains("in workspace a  Bcc: b c :"), "{}", mail.subject);
        assert_eq!(mail.text.lines().count(), plain.text.lines().count());
        assert_eq!(mail.html.lines().count(), plain.html.lines().count());
    }
}
