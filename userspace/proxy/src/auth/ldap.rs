//! Users and passwords checked by an LDAP directory (simple bind, RFC 4513, 5.1).

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use headgate_model::edge::{Hidden, Ldap, LdapEntry};
use http::{Uri, request::Parts};
use ldap3::{
    LdapConnAsync, LdapConnSettings, LdapResult, Scope, SearchEntry, StdStream, dn_escape,
    ldap_escape,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::rustls::ClientConfig;

use crate::{
    fetch::{TIMEOUT, tls_config},
    reach::Reach,
};

use super::{
    CheckResult, USER, basic::challenge, cache::Cache, credentials, service_failed, set_header,
    unauthorized,
};

/// How long a correct password is accepted without asking again.
const CACHE_TIME: Duration = Duration::from_secs(30);
/// Result codes for wrong users and passwords (RFC 4511, A.1): noSuchObject, invalidDNSyntax,
/// inappropriateAuthentication, invalidCredentials.
const WRONG_CREDENTIALS: [u32; 4] = [32, 34, 48, 49];

/// Checks users and passwords at a directory.
pub(super) struct LdapCheck {
    rule: Ldap,
    challenge: String,
    tls: Arc<ClientConfig>,
    reach: Reach,
    cache: Cache<()>,
}

impl LdapCheck {
    pub(super) fn new(rule: &Ldap, reach: &Reach) -> Result<Self> {
        Ok(Self {
            challenge: challenge(&rule.realm),
            tls: tls_config(rule.server.authorities.as_deref())?,
            reach: reach.clone(),
            cache: Cache::new()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> CheckResult {
        let Some((user, password)) = credentials::basic(&parts.headers) else {
            return Err(unauthorized(&self.challenge));
        };
        // Directories accept a bind without a password, as unauthenticated (RFC 4513, 5.1.2).
        if user.is_empty() || password.is_empty() {
            return Err(unauthorized(&self.challenge));
        }
        let credential = [user.as_bytes(), password.as_bytes()];
        if self.cache.get(&credential).is_none() {
            let checked = timeout(TIMEOUT, self.is_correct(&user, &password)).await;
            match checked.context("no response in time").flatten() {
                Ok(true) => self.cache.insert(&credential, (), CACHE_TIME),
                Ok(false) => return Err(unauthorized(&self.challenge)),
                Err(error) => return Err(service_failed("the directory", &error)),
            }
        }
        set_header(&mut parts.headers, &USER, &user);
        Ok(Vec::new())
    }

    async fn is_correct(&self, user: &str, password: &str) -> Result<bool> {
        let stream = self.connect().await?.into_std()?;
        let settings = LdapConnSettings::new()
            .set_std_stream(StdStream::Tcp(stream))
            .set_config(self.tls.clone())
            .set_starttls(self.rule.starttls);
        let (connection, mut ldap) =
            LdapConnAsync::with_settings(settings, &self.rule.server.url).await?;
        let driver = tokio::spawn(connection.drive());
        let is_correct = self.bind(&mut ldap, user, password).await;
        // No need to wait until the directory gets the unbind request.
        driver.abort();
        is_correct
    }

    async fn connect(&self) -> Result<TcpStream> {
        let url: Uri = self
            .rule
            .server
            .url
            .parse()
            .context("auth-server is not a URL")?;
        let usual = match url.scheme_str() {
            Some("ldaps") => 636,
            _ => 389,
        };
        let host = url.host().context("auth-server names no host")?;
        self.reach
            .connect(host, url.port_u16().unwrap_or(usual))
            .await
    }

    async fn bind(&self, ldap: &mut ldap3::Ldap, user: &str, password: &str) -> Result<bool> {
        let entry = match &self.rule.entry {
            LdapEntry::Template(template) => template.replace("{user}", &dn_escape(user)),
            LdapEntry::Search { base, filter, bind } => {
                let filter = filter.replace("{user}", &ldap_escape(user));
                match search(ldap, base, &filter, bind.as_ref()).await? {
                    Some(entry) => entry,
                    None => return Ok(false),
                }
            }
        };
        is_success(ldap.simple_bind(&entry, password).await?)
    }
}

/// The entry that the search finds, if there is exactly one.
async fn search(
    ldap: &mut ldap3::Ldap,
    base: &str,
    filter: &str,
    bind: Option<&(String, Hidden)>,
) -> Result<Option<String>> {
    if let Some((name, password)) = bind {
        let password = str::from_utf8(&password.0).context("bind-password is not UTF-8")?;
        ldap.simple_bind(name, password)
            .await?
            .success()
            .context("bind-dn")?;
    }
    // `1.1` requests no attributes (RFC 4511, 4.5.1.8).
    let found = ldap
        .search(base, Scope::Subtree, filter, vec!["1.1"])
        .await?;
    let (found, _) = found.success()?;
    let mut entries = found.into_iter().filter(|entry| !entry.is_ref());
    let entry = entries.next().map(|entry| SearchEntry::construct(entry).dn);
    // A bind with an empty name would be anonymous.
    Ok(entry.filter(|name| !name.is_empty() && entries.next().is_none()))
}

fn is_success(result: LdapResult) -> Result<bool> {
    match result.rc {
        0 => Ok(true),
        wrong if WRONG_CREDENTIALS.contains(&wrong) => Ok(false),
        _ => bail!("{result}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::TcpStream,
        path::Path,
        process::{Child, Command, Stdio},
        thread::sleep,
        time::Duration,
    };

    use headgate_model::edge::{Auth, Hidden, Ldap, LdapEntry, Server};
    use tempfile::TempDir;
    use tokio::net::TcpSocket;

    use super::super::tests::{NOWHERE, authenticator, authorize, basic_header, request};

    const SLAPD: &str = "/usr/sbin/slapd";
    const ENTRIES: &str = "\
dn: dc=shop
objectClass: dcObject
objectClass: organization
dc: shop
o: shop

dn: ou=people,dc=shop
objectClass: organizationalUnit
ou: people

dn: uid=ada,ou=people,dc=shop
objectClass: inetOrgPerson
uid: ada
cn: Ada
sn: Ada
userPassword: secret

dn: uid=b\\,ob (x),ou=people,dc=shop
objectClass: inetOrgPerson
uid: b,ob (x)
cn: Bob
sn: Bob
userPassword: hidden
";

    /// A slapd with its own folder and ports.
    struct Directory {
        _folder: TempDir,
        _reserved: [TcpSocket; 2],
        server: Child,
        plain: u16,
        tls: u16,
        authority: Vec<u8>,
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _gone_already = self.server.kill();
            let _status = self.server.wait();
        }
    }

    /// Reserves a port while the socket is open. A server with `SO_REUSEADDR` can listen on it.
    fn reserved() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    }

    impl Directory {
        fn start() -> Option<Self> {
            if !Path::new(SLAPD).exists() {
                println!("SKIPPED: there is no {SLAPD} (package slapd)");
                return None;
            }
            let folder = TempDir::new().unwrap();
            let here = folder.path();
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(here.join("tls.crt"), made.cert.pem()).unwrap();
            fs::write(here.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
            fs::write(here.join("entries.ldif"), ENTRIES).unwrap();
            fs::write(here.join("slapd.conf"), config(here)).unwrap();
            fs::create_dir(here.join("db")).unwrap();
            // slapadd is slapd under another name, which selects the function.
            let added = Command::new("/usr/sbin/slapadd")
                .arg("-f")
                .arg(here.join("slapd.conf"))
                .arg("-l")
                .arg(here.join("entries.ldif"))
                .output()
                .unwrap();
            assert!(added.status.success(), "{added:?}");
            let reserved = [reserved(), reserved()];
            let [plain, tls] = reserved
                .each_ref()
                .map(|socket| socket.local_addr().unwrap().port());
            let server = Command::new(SLAPD)
                .arg("-f")
                .arg(here.join("slapd.conf"))
                .args([
                    "-h",
                    &format!("ldap://127.0.0.1:{plain} ldaps://127.0.0.1:{tls}"),
                ])
                .args(["-d", "0"])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut directory = Self {
                _folder: folder,
                _reserved: reserved,
                server,
                plain,
                tls,
                authority: made.cert.pem().into(),
            };
            directory.wait();
            Some(directory)
        }

        fn wait(&mut self) {
            while TcpStream::connect(("127.0.0.1", self.plain)).is_err() {
                assert_eq!(self.server.try_wait().unwrap(), None, "slapd ended");
                sleep(Duration::from_millis(20));
            }
        }

        fn rule(&self, url: &str, starttls: bool, entry: LdapEntry) -> Auth {
            Auth::Ldap(Ldap {
                server: Server {
                    url: url.into(),
                    authorities: Some(self.authority.clone()),
                },
                starttls,
                entry,
                realm: "r".into(),
            })
        }
    }

    fn config(here: &Path) -> String {
        let here = here.display();
        format!(
            "include /etc/ldap/schema/core.schema\n\
             include /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\n\
             modulepath /usr/lib/ldap\n\
             moduleload back_mdb\n\
             pidfile {here}/pid\n\
             TLSCertificateFile {here}/tls.crt\n\
             TLSCertificateKeyFile {here}/tls.key\n\
             database mdb\n\
             maxsize 1048576\n\
             suffix dc=shop\n\
             directory {here}/db\n\
             rootdn cn=admin,dc=shop\n\
             rootpw admin\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by users read by * none\n"
        )
    }

    fn template() -> LdapEntry {
        LdapEntry::Template("uid={user},ou=people,dc=shop".into())
    }

    fn search(password: &str) -> LdapEntry {
        LdapEntry::Search {
            base: "dc=shop".into(),
            filter: "(uid={user})".into(),
            bind: Some(("cn=admin,dc=shop".into(), Hidden(password.into()))),
        }
    }

    async fn status(rule: &Auth, user: &str, password: &str) -> u16 {
        let mut builder = request("/").header("authorization", basic_header(user, password));
        authorize(&authenticator(rule.clone()), &mut builder)
            .await
            .map_or_else(
                |denied| denied.status().as_u16(),
                |parts| {
                    assert_eq!(parts.headers["x-auth-user"], user);
                    200
                },
            )
    }

    #[tokio::test]
    async fn l68_auth_directory_checks_users_and_passwords() {
        let Some(directory) = Directory::start() else {
            return;
        };
        let plain = format!("ldap://localhost:{}", directory.plain);
        let tls = format!("ldaps://localhost:{}", directory.tls);
        for rule in [
            directory.rule(&plain, false, template()),
            directory.rule(&plain, true, template()),
            directory.rule(&tls, false, template()),
            directory.rule(&tls, false, search("admin")),
        ] {
            for (user, password, expected) in [
                ("ada", "secret", 200),
                ("b,ob (x)", "hidden", 200),
                ("ada", "wrong", 401),
                ("eve", "secret", 401),
                ("ada", "", 401),
                ("", "secret", 401),
                ("", "", 401),
                ("*", "secret", 401),
                ("a*", "secret", 401),
                ("ada)(uid=ada", "secret", 401),
                ("ada,ou=people,dc=shop", "secret", 401),
            ] {
                let found = status(&rule, user, password).await;
                assert_eq!(found, expected, "{rule:?}: {user} {password}");
            }
        }
    }

    #[tokio::test]
    async fn l68_auth_unusable_directory_refuses_all_requests() {
        let away = NOWHERE.replace("http", "ldap");
        let Some(directory) = Directory::start() else {
            return;
        };
        let plain = format!("ldap://localhost:{}", directory.plain);
        let tls = format!("ldaps://127.0.0.1:{}", directory.tls);
        for (why, rule) in [
            (
                "the directory is unreachable",
                directory.rule(&away, false, template()),
            ),
            (
                "the bind password is wrong",
                directory.rule(&plain, false, search("wrong")),
            ),
            (
                "the certificate is for another name",
                directory.rule(&tls, false, template()),
            ),
        ] {
            assert_eq!(status(&rule, "ada", "secret").await, 503, "{why}");
        }
        let Auth::Ldap(mut rule) = directory.rule(&plain, true, template()) else {
            return;
        };
        rule.server.authorities = None;
        let found = status(&Auth::Ldap(rule), "ada", "secret").await;
        assert_eq!(found, 503, "the authority is not trusted");
    }
}
