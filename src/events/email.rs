//! E-mail: one message to one recipient, through an SMTP server of the operator's.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, Tls, TlsParameters, TlsParametersBuilder};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::response::Response;
use lettre::transport::smtp::{SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::mail::{Mail, one_line};
use super::outcome::Outcome;
use crate::error::Error;
use crate::peer::{causes, certificates, unreadable};
use crate::resource::shown;

/// Through which SMTP server e-mails are sent, and from whom.
///
/// `Debug` doesn't show the password.
///
/// ```
/// use tower_quota::EmailOptions;
///
/// let options = EmailOptions::smtp("smtps://smtp.example.com", "Quotas <quotas@example.com>").credentials("quotas", "s3cret");
/// ```
#[derive(Clone)]
pub struct EmailOptions {
    url: String,
    from: String,
    credentials: Option<(String, String)>,
    roots: Vec<Vec<u8>>,
    timeout: Duration,
}

impl EmailOptions {
    /// Through the server at `url`, from the address `from`, such as `quotas@example.com` or `Quotas <quotas@example.com>`.
    ///
    /// | URL | transport | port unless given |
    /// |---|---|---|
    /// | `smtps://host` | TLS from the start | 465 |
    /// | `smtp://host?tls=required` | STARTTLS, and nothing without it | 587 |
    /// | `smtp://host?tls=opportunistic` | STARTTLS where the server offers it | 587 |
    /// | `smtp://host` | in the clear | 25 |
    ///
    /// User and password can stand in the URL, percent-encoded: `smtps://user:password@host`. They are not sent where TLS is
    /// not certain, but to the machine itself. A path is the name to greet the server with, instead of the machine's.
    pub fn smtp(url: impl Into<String>, from: impl Into<String>) -> Self {
        let (url, from) = (url.into(), from.into());
        Self { url, from, credentials: None, roots: Vec::new(), timeout: Duration::from_secs(15) }
    }

    /// User and password, instead of those in the URL.
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// Root certificates in PEM, one or several, that are trusted beside those of the system.
    #[must_use]
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// How long handing one e-mail over may take in all; 15 seconds unless set.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for EmailOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EmailOptions");
        debug.field("from", &self.from).field("timeout", &self.timeout);
        debug.finish_non_exhaustive()
    }
}

/// Whether something is an e-mail address, such as `ada@example.com`.
///
/// # Errors
///
/// [Invalid](Error::is_invalid) where it isn't.
pub(crate) fn check_address(email: &str) -> Result<(), Error> {
    let read = email.parse::<Address>();
    read.map(drop).map_err(|error| {
        let shown = shown(email);
        Error::invalid(format!("{shown} is no e-mail address: write one such as ada@example.com")).with_source(error)
    })
}

/// Who is written to, such as `ada@example.com` or `Ada <ada@example.com>`.
///
/// # Errors
///
/// [Invalid](Error::is_invalid) where it is nobody.
pub(crate) fn recipient(to: &str) -> Result<Mailbox, Error> {
    to.parse().map_err(|error| Error::invalid(format!("{} is no e-mail address", shown(to))).with_source(error))
}

/// Sends e-mails. Each has a connection of its own: they are too rare to keep one open for.
pub(crate) struct Mailer {
    host: String,
    port: u16,
    tls: Tls,
    hello: ClientId,
    credentials: Option<Credentials>,
    from: Mailbox,
    timeout: Duration,
}

impl Mailer {
    /// How long the farewell may take, which nothing hangs on.
    const QUIT_TIMEOUT: Duration = Duration::from_secs(1);

    /// A mailer with these options. It doesn't connect yet.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config) when the URL, the sender or a root certificate can't be read, or when a password would be
    /// sent without TLS. No message repeats the URL, in which there may be a password.
    pub(crate) fn new(options: &EmailOptions) -> Result<Self, Error> {
        let from = options.from.parse::<Mailbox>().map_err(|error| {
            let message =
                "the sender of e-mails is no address: write quotas@example.com or Quotas <quotas@example.com>";
            Error::config(message).with_source(error)
        })?;
        let url = Url::parse(&options.url).map_err(|error| malformed(&error.to_string())).and_then(|url| {
            if url.query_pairs().all(|(key, _)| key == "tls") { Ok(url) } else { Err(malformed("its query")) }
        })?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| malformed("it has no host"))?;
        // An IPv6 address stands in brackets in a URL and nowhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mode = url.query_pairs().next().map(|(_, mode)| mode);
        let parameters = || tls_parameters(&host, &options.roots);
        let (port, tls) = match (url.scheme(), mode.as_deref()) {
            ("smtps", None) => (SUBMISSIONS_PORT, Tls::Wrapper(parameters()?)),
            ("smtp", Some("required")) => (SUBMISSION_PORT, Tls::Required(parameters()?)),
            ("smtp", Some("opportunistic")) => (SUBMISSION_PORT, Tls::Opportunistic(parameters()?)),
            ("smtp", None) => (SMTP_PORT, Tls::None),
            _ => return Err(malformed("its scheme or what it says of TLS")),
        };
        let credentials = match &options.credentials {
            Some((user, password)) => Some(Credentials::new(user.clone(), password.clone())),
            None => credentials_of(&url)?,
        };
        if credentials.is_some() && matches!(tls, Tls::None | Tls::Opportunistic(_)) && !is_this_machine(&host) {
            let message =
                "the password for SMTP could be read on its way: write smtps:// or add ?tls=required to the URL";
            return Err(Error::config(message));
        }
        let hello = match url.path().trim_matches('/') {
            "" => ClientId::default(),
            name => ClientId::Domain(name.into()),
        };
        let port = url.port().unwrap_or(port);
        Ok(Self { host, port, tls, hello, credentials, from, timeout: options.timeout })
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Hands `mail` to the server once, for `to`. All attempts of one delivery have the same `delivery` (letters, digits, `-`
    /// and `_`), by which the recipient's server can tell that it has the e-mail already.
    pub(crate) async fn send(&self, to: &str, delivery: &str, mail: &Mail) -> Outcome {
        let (to, message) = match self.message(to, delivery, mail) {
            Ok(message) => message,
            Err(error) => return Outcome::rejected(&causes(&error)),
        };
        let deadline = Instant::now() + self.timeout;
        let late = || Outcome::failed(&format!("the SMTP server took longer than {:?}", self.timeout));
        let mut connection = match timeout_at(deadline, self.connect()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return failed("the SMTP server can't be used", &error),
            Err(_) => return late(),
        };
        let Ok(outcome) = timeout_at(deadline, self.transact(&mut connection, to, &message.formatted())).await else {
            return late();
        };
        // A server that has taken a message has taken it, whether it says good-bye or not.
        let _ = timeout(Self::QUIT_TIMEOUT, connection.abort()).await;
        outcome
    }

    /// `mail` as a message, and whom it is to.
    fn message(&self, to: &str, delivery: &str, mail: &Mail) -> Result<(Mailbox, Message), Error> {
        let to = recipient(to)?;
        if delivery.is_empty()
            || !delivery.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        {
            return Err(Error::invalid("the id of the delivery is not fit for a Message-ID"));
        }
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to.clone())
            .message_id(Some(format!("<{delivery}@{}>", self.from.email.domain())))
            .subject(one_line(&mail.subject))
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|error| Error::invalid("the e-mail can't be written").with_source(error))?;
        // Keeps vacation responders from answering.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(automatic, "auto-generated".into()));
        Ok((to, message))
    }

    /// A connection that is ready for a message.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SmtpError> {
        let server = (self.host.as_str(), self.port);
        let wrapper = if let Tls::Wrapper(parameters) = &self.tls { Some(parameters.clone()) } else { None };
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &self.hello, wrapper, None).await?;
        match &self.tls {
            Tls::Required(parameters) => connection.starttls(parameters.clone(), &self.hello).await?,
            Tls::Opportunistic(parameters) if connection.can_starttls() => {
                connection.starttls(parameters.clone(), &self.hello).await?;
            }
            _ => {}
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    /// Hands `message` over. lettre does so too, but doesn't tell a recipient that was refused from anything else that was,
    /// which would be no reason to give up.
    async fn transact(&self, connection: &mut AsyncSmtpConnection, to: Mailbox, message: &[u8]) -> Outcome {
        let international = !self.from.email.to_string().is_ascii() || !to.email.to_string().is_ascii();
        if international && !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Outcome::failed("the SMTP server takes no addresses beyond ASCII");
        }
        let parameters = if international { vec![MailParameter::SmtpUtfEight] } else { Vec::new() };
        if let Err(error) = connection.command(MailFrom::new(Some(self.from.email.clone()), parameters)).await {
            return failed("the sender was refused", &error);
        }
        match connection.command(Rcpt::new(to.email, Vec::new())).await {
            Err(error) if is_about_recipient(&error) => {
                return Outcome::rejected(&format!("the recipient was refused: {}", causes(&error)));
            }
            Err(error) => return failed("the recipient was refused", &error),
            Ok(_) => {}
        }
        if let Err(error) = connection.command(Data).await {
            return failed("the message was refused", &error);
        }
        match connection.message(message).await {
            Ok(response) => Outcome::delivered(&told(&response)),
            Err(error) => failed("the message was refused", &error),
        }
    }
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Mailer");
        debug.field("host", &self.host).field("port", &self.port).field("from", &self.from.email);
        debug.finish_non_exhaustive()
    }
}

fn malformed(what: &str) -> Error {
    Error::config(format!(
        "the URL of the SMTP server can't be read ({what}): write smtps://host or smtp://host?tls=required, with the \
         characters of user and password percent-encoded"
    ))
}

fn failed(what: &str, error: &SmtpError) -> Outcome {
    Outcome::failed(&format!("{what}: {}", causes(error)))
}

fn told(response: &Response) -> String {
    format!("{} {}", response.code(), response.message().collect::<Vec<_>>().join(" "))
}

/// Whether the server, asked for a recipient, refused that one for good. It may as well refuse the sender (which wants to
/// authenticate, or mayn't send from here): the operator can mend that, and the notice shall still go out then.
fn is_about_recipient(error: &SmtpError) -> bool {
    let policy = std::error::Error::source(error).is_some_and(|text| text.to_string().starts_with("5.7."));
    let code = error.status().map(u16::from);
    error.is_permanent() && !policy && !matches!(code, Some(503 | 530 | 535))
}

fn credentials_of(url: &Url) -> Result<Option<Credentials>, Error> {
    let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| malformed("its user or password"));
    let user = decode(url.username())?.into_owned();
    match url.password() {
        Some(password) => Ok(Some(Credentials::new(user, decode(password)?.into_owned()))),
        None if user.is_empty() => Ok(None),
        None => Err(malformed("it has a user and no password")),
    }
}

fn is_this_machine(host: &str) -> bool {
    host.parse().map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address: IpAddr| address.is_loopback())
}

fn tls_parameters(host: &str, pems: &[Vec<u8>]) -> Result<TlsParameters, Error> {
    let mut builder = TlsParametersBuilder::new(host.to_owned());
    for certificate in certificates(pems)? {
        let certificate = Certificate::from_der(certificate.to_vec());
        builder = builder.add_root_certificate(certificate.map_err(|error| unreadable().with_source(error))?);
    }
    builder.build_rustls().map_err(|error| unreadable().with_source(error))
}

#[cfg(test)]
mod tests;
