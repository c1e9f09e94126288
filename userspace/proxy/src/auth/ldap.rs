//! Names and passwords that a directory takes (RFC 4513, 5.1).

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use headgate_model::ingress::{Hidden, Ldap, LdapEntry};
use http::request::Parts;
use ldap3::{
    LdapConnAsync, LdapConnSettings, LdapResult, Scope, SearchEntry, dn_escape, ldap_escape,
};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::fetch::{TIMEOUT, tls_config};

use super::{
    Checked, USER, basic::challenge, cache::Cache, credentials, failed, tell, unauthorized,
};

/// How long a password that was right is taken without asking again.
const REMEMBERED: Duration = Duration::from_secs(30);
/// What directories say to wrong names and passwords (RFC 4511, A.1): there is no such object, the
/// name is none, it has no password, the password is wrong.
const WRONG: [u32; 4] = [32, 34, 48, 49];

/// A directory.
pub(super) struct LdapCheck {
    rule: Ldap,
    challenge: String,
    tls: Arc<ClientConfig>,
    cache: Cache<()>,
}

impl LdapCheck {
    pub(super) fn new(rule: &Ldap) -> Result<Self> {
        Ok(Self {
            challenge: challenge(&rule.realm),
            tls: tls_config(rule.server.authorities.as_deref())?,
            cache: Cache::new()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts) -> Checked {
        let Some((user, password)) = credentials::basic(&parts.headers) else {
            return Err(unauthorized(&self.challenge));
        };
        // A name without password is nobody's: directories let it in as such (RFC 4513, 5.1.2).
        if user.is_empty() || password.is_empty() {
            return Err(unauthorized(&self.challenge));
        }
        let proof = [user.as_bytes(), password.as_bytes()];
        if self.cache.get(&proof).is_none() {
            let asked = timeout(TIMEOUT, self.is_right(&user, &password)).await;
            match asked.context("no answer in time").flatten() {
                Ok(true) => self.cache.insert(&proof, (), REMEMBERED),
                Ok(false) => return Err(unauthorized(&self.challenge)),
                Err(error) => return Err(failed("the directory", &error)),
            }
        }
        tell(&mut parts.headers, &USER, &user);
        Ok(Vec::new())
    }

    async fn is_right(&self, user: &str, password: &str) -> Result<bool> {
        let settings = LdapConnSettings::new()
            .set_conn_timeout(TIMEOUT)
            .set_config(self.tls.clone())
            .set_starttls(self.rule.starttls);
        let (connection, mut ldap) =
            LdapConnAsync::with_settings(settings, &self.rule.server.url).await?;
        let driver = tokio::spawn(connection.drive());
        let right = self.bind(&mut ldap, user, password).await;
        // Whether it hears that we go or not.
        driver.abort();
        right
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
        is_taken(ldap.simple_bind(&entry, password).await?)
    }
}

/// The one entry that is found; of several none is meant.
async fn search(
    ldap: &mut ldap3::Ldap,
    base: &str,
    filter: &str,
    bind: Option<&(String, Hidden)>,
) -> Result<Option<String>> {
    if let Some((name, password)) = bind {
        let password = str::from_utf8(&password.0).context("bind-password is no text")?;
        ldap.simple_bind(name, password)
            .await?
            .success()
            .context("bind-dn")?;
    }
    // No attributes (RFC 4511, 4.5.1.8).
    let found = ldap
        .search(base, Scope::Subtree, filter, vec!["1.1"])
        .await?;
    let (found, _) = found.success()?;
    let mut entries = found.into_iter().filter(|entry| !entry.is_ref());
    let entry = entries.next().map(|entry| SearchEntry::construct(entry).dn);
    // A name without entry could be nobody's.
    Ok(entry.filter(|name| !name.is_empty() && entries.next().is_none()))
}

fn is_taken(result: LdapResult) -> Result<bool> {
    match result.rc {
        0 => Ok(true),
        wrong if WRONG.contains(&wrong) => Ok(false),
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

    use headgate_model::ingress::{Auth, Hidden, Ldap, LdapEntry, Server};
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

    /// A directory in a folder and on ports of its own.
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

    /// A port that nobody else gets while this is there, and that a server may listen on.
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
            // The name chooses what the one program does.
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
                assert_eq!(self.server.try_wait().unwrap(), None, "it ended");
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
        let mut asked = request("/").header("authorization", basic_header(user, password));
        authorize(&authenticator(rule.clone()), &mut asked)
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
    async fn l68_auth_directory_takes_names_and_passwords() {
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
    async fn l68_auth_directory_that_cannot_be_asked_lets_nothing_through() {
        let away = NOWHERE.replace("http", "ldap");
        let Some(directory) = Directory::start() else {
            return;
        };
        let plain = format!("ldap://localhost:{}", directory.plain);
        let tls = format!("ldaps://127.0.0.1:{}", directory.tls);
        for (why, rule) in [
            ("nobody answers", directory.rule(&away, false, template())),
            (
                "another password",
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
        assert_eq!(found, 503, "somebody else's authority");
    }
}
