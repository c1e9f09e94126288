//! Client certificates.

use headgate_model::{
    NamespacedName,
    edge::{Auth, ClientCertificates, Pattern, Template, Verify},
};
use http_body_util::Empty;
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd,
};

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::setup::{Authority, HOSTS, Identity, Setup, echoed, params, request};

fn rule(authority: &Authority, verify: Verify) -> ClientCertificates {
    ClientCertificates {
        secret: NamespacedName::new("shop", "ca"),
        authorities: authority.pem.clone(),
        revoked: None,
        verify,
        depth: 1,
        name: None,
        is_passed: false,
        error_page: None,
    }
}

async fn setup(rule: ClientCertificates) -> Setup {
    Setup::new(Auth::Certificate(rule)).await
}

async fn status(setup: &Setup, identity: Option<&Identity>) -> u16 {
    let request = request("/").body(Empty::new()).unwrap();
    let response = setup.send(HOSTS[0], identity, request).await;
    response.status().as_u16()
}

#[tokio::test]
async fn l63_auth_certificate_of_an_authority_is_required() {
    let (ours, other) = (Authority::new("ours"), Authority::new("ours"));
    let intermediate = ours.intermediate("between");
    let deeper = intermediate.intermediate("deeper");
    let mut old = params("old");
    old.not_after = date_time_ymd(2001, 1, 1);
    let mut rule = rule(&ours, Verify::Required);
    rule.is_passed = true;
    let setup = setup(rule).await;
    for (why, identity, expected) in [
        ("no certificate", None, 400),
        ("trusted authority", Some(ours.identity("ada", &[])), 200),
        (
            "another authority of the same name",
            Some(other.identity("ada", &[])),
            400,
        ),
        (
            "one intermediate",
            Some(intermediate.identity("ada", &[&intermediate])),
            200,
        ),
        (
            "missing intermediate",
            Some(intermediate.identity("ada", &[])),
            400,
        ),
        (
            "chain with the authority itself",
            Some(intermediate.identity("ada", &[&intermediate, &ours])),
            200,
        ),
        (
            "too many intermediates",
            Some(deeper.identity("ada", &[&deeper, &intermediate])),
            400,
        ),
        ("expired", Some(ours.sign(old, &[])), 400),
    ] {
        assert_eq!(status(&setup, identity.as_ref()).await, expected, "{why}");
    }
    assert_eq!(setup.hits(), 3, "the others were refused");

    let forged = request("/")
        .header("ssl-client-verify", "SUCCESS")
        .header("ssl_client_subject_dn", "CN=root");
    let ada = ours.identity("ada", &[]);
    let response = setup
        .send(HOSTS[0], Some(&ada), forged.body(Empty::new()).unwrap())
        .await;
    let headers = echoed(&response);
    assert_eq!(headers["ssl-client-verify"], "SUCCESS");
    assert_eq!(headers["ssl-client-subject-dn"], "CN=ada,O=Shop\\, Inc.");
    assert_eq!(headers["ssl-client-issuer-dn"], "CN=ours,O=Shop\\, Inc.");
    assert!(headers["ssl-client-cert"].starts_with("%2D%2D%2D%2D%2DBEGIN%20CERTIFICATE"));
    assert!(!headers.contains_key("ssl_client_subject_dn"));
    assert_eq!(
        setup.plain(request("/")).await.status(),
        400,
        "no certificate without TLS"
    );
}

#[tokio::test]
async fn l63_auth_certificate_counts_only_for_its_host() {
    let ours = Authority::new("ours");
    let setup = setup(rule(&ours, Verify::Required)).await;
    let ada = ours.identity("ada", &[]);
    // The handshake was with a host that demands no certificate.
    let request = request("/").body(Empty::new()).unwrap();
    let response = setup.send(HOSTS[1], Some(&ada), request).await;
    assert_eq!(response.status(), 421);
    assert_eq!(setup.hits(), 0);
    let open = http::Request::get("/").header("host", HOSTS[1]);
    assert_eq!(setup.get(open).await.status(), 200);
}

#[tokio::test]
async fn l63_auth_result_of_an_optional_certificate_reaches_the_backend() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (ada, eve) = (ours.identity("ada", &[]), other.identity("eve", &[]));
    for (verify, cases) in [
        (
            Verify::Optional,
            [
                (None, Some("NONE")),
                (Some(&ada), Some("SUCCESS")),
                (Some(&eve), None),
            ],
        ),
        (
            Verify::AnyAuthority,
            [
                (None, Some("NONE")),
                (Some(&ada), Some("SUCCESS")),
                (Some(&eve), Some("FAILED")),
            ],
        ),
    ] {
        let setup = setup(rule(&ours, verify)).await;
        for (identity, expected) in cases {
            let request = request("/").body(Empty::new()).unwrap();
            let response = setup.send(HOSTS[0], identity, request).await;
            let Some(expected) = expected else {
                assert_eq!(response.status(), 400);
                continue;
            };
            let headers = echoed(&response);
            assert!(
                headers["ssl-client-verify"].starts_with(expected),
                "{headers:?}"
            );
            assert_eq!(
                headers.contains_key("ssl-client-subject-dn"),
                identity.is_some()
            );
        }
    }
}

/// The handshake succeeds, and the request is answered. Such a certificate says neither what it is for nor
/// that it is no authority, so it is never accepted as valid.
#[tokio::test]
async fn l139_auth_certificates_of_version_1_are_answered() {
    const CHAIN: &[u8] = include_bytes!("../../src/tls/testdata/version-1.crt");
    const KEY: &[u8] = include_bytes!("../../src/tls/testdata/version-1.key");
    let certificate = CertificateDer::from_pem_slice(CHAIN).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let old = (vec![certificate], key);
    for (verify, page, expected) in [
        (Verify::AnyAuthority, None, 200),
        (Verify::Optional, None, 400),
        (Verify::Required, None, 400),
        (Verify::Required, Some("https://help.example/"), 302),
    ] {
        let mut rule = rule(&Authority::new("ours"), verify);
        rule.error_page = page.map(Template::plain);
        let setup = setup(rule).await;
        let request = request("/").body(Empty::new()).unwrap();
        let response = setup.send(HOSTS[0], Some(&old), request).await;
        assert_eq!(response.status(), expected, "{verify:?} {page:?}");
        if expected == 200 {
            let headers = echoed(&response);
            assert!(headers["ssl-client-verify"].starts_with("FAILED:"));
            assert_eq!(headers["ssl-client-subject-dn"], "CN=a.test");
        }
    }
}

#[tokio::test]
async fn l63_auth_common_name_must_match() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    for verify in [Verify::Required, Verify::AnyAuthority] {
        let mut rule = rule(&ours, verify);
        rule.name = Some(Pattern::whole("ada|bob").unwrap());
        let setup = setup(rule).await;
        assert_eq!(status(&setup, Some(&ours.identity("ada", &[]))).await, 200);
        assert_eq!(status(&setup, Some(&ours.identity("ada2", &[]))).await, 403);
        let forged = other.identity("ada", &[]);
        let expected = if verify == Verify::Required { 400 } else { 403 };
        assert_eq!(status(&setup, Some(&forged)).await, expected);
    }
}

#[tokio::test]
async fn l63_auth_revoked_certificates_are_refused() {
    let ours = Authority::new("ours");
    let mut params = params("ada");
    params.serial_number = Some(SerialNumber::from(7));
    let ada = ours.sign(params, &[]);
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2999, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&ours.issuer).unwrap();
    let mut rule = rule(&ours, Verify::Required);
    assert_eq!(status(&setup(rule.clone()).await, Some(&ada)).await, 200);
    rule.revoked = Some(list.pem().unwrap().into());
    rule.error_page = Some(Template::plain("https://help.example/"));
    let setup = setup(rule).await;
    assert_eq!(status(&setup, Some(&ours.identity("bob", &[]))).await, 200);
    assert_eq!(
        status(&setup, Some(&ada)).await,
        302,
        "redirect to the error page"
    );
    assert_eq!(setup.hits(), 1);
}
