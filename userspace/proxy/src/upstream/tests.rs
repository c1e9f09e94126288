//! Picks of endpoints, without real endpoints.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use headgate_model::{
    NamespacedName,
    edge::{Balance, HashBy, OutlierPolicy, Sticky, Timeouts, UpstreamKey, UpstreamPolicy},
};
use http::{Request, StatusCode, header::COOKIE};
use tokio::time::advance;

use super::{EndpointHealth, NoEndpoint, Pick, PickInput, Upstream, Upstreams};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn key(policy: UpstreamPolicy) -> UpstreamKey {
    UpstreamKey {
        service: NamespacedName::new("shop", "web"),
        port: 80,
        policy: Arc::new(policy),
    }
}

fn balanced(balance: Balance) -> UpstreamPolicy {
    UpstreamPolicy {
        balance,
        ..UpstreamPolicy::default()
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

/// Endpoints 1, 2, 3 and so on, with these weights.
fn weighted(weights: &[u32]) -> BTreeMap<SocketAddr, u32> {
    (1..).map(address).zip(weights.iter().copied()).collect()
}

/// An upstream with endpoints 1, 2, 3 and so on.
fn upstream(policy: UpstreamPolicy, weights: &[u32]) -> Arc<Upstream> {
    let upstream = Arc::new(Upstream::new(key(policy), 0));
    upstream.update(&weighted(weights));
    upstream
}

fn asking(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(()).unwrap()
}

fn pick_for(upstream: &Upstream, client: IpAddr, request: &Request<()>) -> Pick {
    upstream
        .pick(&PickInput::new(client, request), &[])
        .unwrap()
}

fn pick(upstream: &Upstream) -> Pick {
    pick_for(upstream, CLIENT, &asking("/", &[]))
}

fn counts(picks: impl IntoIterator<Item = Pick>) -> BTreeMap<SocketAddr, usize> {
    let mut counts = BTreeMap::new();
    for pick in picks {
        *counts.entry(pick.address()).or_default() += 1;
    }
    counts
}

/// How many of `count` requests, sent one after another, each endpoint gets.
fn distribution(upstream: &Upstream, count: usize) -> BTreeMap<SocketAddr, usize> {
    counts((0..count).map(|_| pick(upstream)))
}

fn expected<const N: usize>(counts: [usize; N]) -> BTreeMap<SocketAddr, usize> {
    (1..)
        .map(address)
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn fail(upstream: &Upstream, address: SocketAddr, times: u32) {
    let endpoints = upstream.endpoints();
    let endpoint = endpoints.iter().find(|one| one.address == address).unwrap();
    (0..times).for_each(|_| endpoint.record_failure("reset", MS));
}

#[tokio::test]
async fn l30_round_robin_gives_equal_shares() {
    let upstream = upstream(balanced(Balance::RoundRobin), &[1, 1, 1]);
    assert_eq!(distribution(&upstream, 300), expected([100, 100, 100]));
}

#[tokio::test]
async fn l30_share_of_an_ejected_endpoint_goes_to_all_others() {
    let upstream = upstream(balanced(Balance::RoundRobin), &[1, 1, 1, 1]);
    fail(&upstream, address(2), 5);
    assert_eq!(distribution(&upstream, 300), expected([100, 0, 100, 100]));
}

#[tokio::test]
async fn l30_tried_endpoints_come_last() {
    let upstream = upstream(balanced(Balance::RoundRobin), &[1, 1]);
    let request = asking("/", &[]);
    let input = PickInput::new(CLIENT, &request);
    for _ in 0..10 {
        let other = upstream.pick(&input, &[address(1)]).unwrap();
        assert_eq!(other.address(), address(2));
    }
    assert!(upstream.pick(&input, &[address(1), address(2)]).is_ok());
}

#[tokio::test]
async fn l30_pick_without_endpoints_fails() {
    let upstream = upstream(UpstreamPolicy::default(), &[]);
    let request = asking("/", &[]);
    let input = PickInput::new(CLIENT, &request);
    assert_eq!(upstream.pick(&input, &[]).unwrap_err(), NoEndpoint::Missing);
}

#[tokio::test]
async fn l31_weights_are_followed_smoothly() {
    let upstream = upstream(balanced(Balance::RoundRobin), &[5, 1, 1]);
    let order: Vec<_> = (0..7).map(|_| pick(&upstream).address()).collect();
    let numbers = [1, 1, 2, 1, 3, 1, 1];
    assert_eq!(order, numbers.map(address));
    assert_eq!(distribution(&upstream, 700), expected([500, 100, 100]));
}

#[tokio::test]
async fn l32_least_connections_levels_requests_by_weight() {
    let upstream = upstream(balanced(Balance::LeastConnections), &[1, 1, 2]);
    let picks: Vec<_> = (0..40).map(|_| pick(&upstream)).collect();
    let levels = upstream.state().endpoints.into_iter();
    assert_eq!(
        levels.map(|one| one.in_flight).collect::<Vec<_>>(),
        [10, 10, 20]
    );
    let (of_first, others): (Vec<_>, Vec<_>) = picks
        .into_iter()
        .partition(|pick| pick.address() == address(1));
    drop(of_first);
    assert_eq!(counts((0..3).map(|_| pick(&upstream))), expected([3]));
    drop(others);
}

#[tokio::test]
async fn l32_endpoints_with_equal_load_take_turns() {
    let upstream = upstream(balanced(Balance::LeastConnections), &[1, 1, 1]);
    assert_eq!(distribution(&upstream, 300), expected([100, 100, 100]));
}

#[tokio::test]
async fn l33_random_choice_avoids_the_busier_of_two_endpoints() {
    let upstream = upstream(balanced(Balance::Random), &[1, 1, 1, 1]);
    let busy = upstream.endpoints().swap_remove(0);
    (0..100).for_each(|_| assert!(busy.begin_request(None)));
    let counts = distribution(&upstream, 3000);
    assert_eq!(counts.get(&address(1)), None);
    assert!(
        (2..=4).all(|number| counts[&address(number)] > 700),
        "{counts:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn l34_random_choice_takes_the_faster_of_two_endpoints() {
    let upstream = upstream(balanced(Balance::LeastTime), &[1, 1]);
    let endpoints = upstream.endpoints();
    endpoints[0].record_response(StatusCode::OK, 100 * MS);
    endpoints[1].record_response(StatusCode::OK, 10 * MS);
    assert_eq!(distribution(&upstream, 100), expected([0, 100]));
    let held: Vec<_> = (0..22).map(|_| pick(&upstream)).collect();
    assert_eq!(counts(held), expected([2, 20]), "by time and by requests");
}

#[tokio::test(start_paused = true)]
async fn l34_slow_response_counts_at_once_and_decays() {
    let upstream = upstream(balanced(Balance::LeastTime), &[1, 1]);
    let endpoints = upstream.endpoints();
    let time = || upstream.state().endpoints[0].time;
    endpoints[0].record_response(StatusCode::OK, 10 * MS);
    endpoints[0].record_response(StatusCode::OK, 500 * MS);
    assert_eq!(time(), 500 * MS);
    endpoints[0].record_response(StatusCode::OK, 10 * MS);
    assert_eq!(time(), 500 * MS, "no time has passed");
    advance(10 * S).await;
    assert!(time() < 200 * MS && time() > 150 * MS, "{:?}", time());
    endpoints[0].record_failure("reset", MS);
    assert_eq!(time(), S, "a quick failure is not a fast response");
}

fn clients() -> impl Iterator<Item = IpAddr> {
    (0..4000_u32).map(|number| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number * 7)))
}

fn homes(upstream: &Upstream) -> Vec<SocketAddr> {
    let request = asking("/", &[]);
    clients()
        .map(|client| pick_for(upstream, client, &request).address())
        .collect()
}

#[tokio::test]
async fn l35_hash_is_stable_and_moves_few_clients() {
    let upstream = upstream(balanced(Balance::Hash(HashBy::Source)), &[1; 10]);
    let before = homes(&upstream);
    assert_eq!(before, homes(&upstream));
    let levels = upstream.state().endpoints;
    assert!(
        levels.iter().all(|one| (640..960).contains(&one.requests)),
        "{levels:?}"
    );

    upstream.update(&weighted(&[1; 9]));
    let moved = |after: &[SocketAddr]| {
        let pairs = before.iter().zip(after);
        pairs.filter(|(before, after)| before != after).count()
    };
    let after = moved(&homes(&upstream));
    assert!(
        after < 4000 / 10 * 3 / 2,
        "about a tenth of the clients moves, {after} did"
    );
    upstream.update(&weighted(&[1; 10]));
    assert_eq!(moved(&homes(&upstream)), 0);
}

#[tokio::test]
async fn l35_hash_follows_weights_and_skips_ejected_endpoints() {
    let upstream = upstream(balanced(Balance::Hash(HashBy::Source)), &[1, 3, 1, 1]);
    let count = |homes: &[SocketAddr], number| {
        homes
            .iter()
            .filter(|home| **home == address(number))
            .count()
    };
    let before = homes(&upstream);
    assert!(
        (1800..2200).contains(&count(&before, 2)),
        "{}",
        count(&before, 2)
    );
    fail(&upstream, address(1), 5);
    let after = homes(&upstream);
    assert_eq!(count(&after, 1), 0);
    let stay = before
        .iter()
        .zip(&after)
        .all(|(before, after)| *before == address(1) || before == after);
    assert!(stay, "only clients of the ejected endpoint move");
}

#[tokio::test]
async fn l35_equal_hash_input_gives_the_same_endpoint() {
    let hashed = [
        (
            HashBy::Header("x-user".into()),
            asking("/", &[("x-user", "ann")]),
        ),
        (
            HashBy::Cookie("user".into()),
            asking("/", &[("cookie", "a=b; user=ann")]),
        ),
        (HashBy::Query("user".into()), asking("/?a=b&user=ann", &[])),
        (HashBy::Uri, asking("/ann", &[])),
        (HashBy::Host, asking("/", &[("host", "ann.example.com")])),
    ];
    for (by, request) in hashed {
        let upstream = upstream(balanced(Balance::Hash(by.clone())), &[1; 5]);
        let same = counts((0..20).map(|_| pick_for(&upstream, CLIENT, &request)));
        assert_eq!(same.len(), 1, "{by:?}");
    }
    let by_query = Balance::Hash(HashBy::Query("user".into()));
    let users = upstream(balanced(by_query), &[1; 5]);
    let same = (0..20).map(|number| asking(&format!("/?a={number}&user=ann"), &[]));
    let same = counts(same.map(|request| pick_for(&users, CLIENT, &request)));
    assert_eq!(same.len(), 1, "other parameters do not count");
    let several = HashBy::Several(vec![HashBy::Path, HashBy::Header("x-user".into())]);
    let several = upstream(balanced(Balance::Hash(several)), &[1; 5]);
    let homes = |requests: &[Request<()>]| {
        let picks = requests.iter().map(|one| pick_for(&several, CLIENT, one));
        counts(picks).len()
    };
    let of = |path: &str, user: &str| asking(path, &[("x-user", user)]);
    let queries = [of("/a?x=1", "ann"), of("/a?x=2", "ann"), of("/a", "ann")];
    assert_eq!(homes(&queries), 1, "the query does not count");
    let users: Vec<_> = (0..20).map(|user| of("/a", &user.to_string())).collect();
    let paths: Vec<_> = (0..20).map(|path| of(&format!("/{path}"), "ann")).collect();
    assert!(homes(&users) > 2 && homes(&paths) > 2, "each value counts");
    let by_header = Balance::Hash(HashBy::Header("x-user".into()));
    let upstream = upstream(balanced(by_header), &[1, 1]);
    assert_eq!(
        distribution(&upstream, 10),
        expected([5, 5]),
        "no input: round robin"
    );
}

fn sticky() -> UpstreamPolicy {
    UpstreamPolicy {
        sticky: Some(Sticky {
            name: "route".into(),
            path: "/".into(),
            attributes: "; HttpOnly".into(),
            secret: "8b0e".into(),
        }),
        ..UpstreamPolicy::default()
    }
}

/// The next request of a client that got this cookie.
fn returning(pick: &Pick) -> Request<()> {
    let cookie = pick.cookie().unwrap();
    let (pair, _) = cookie.to_str().unwrap().split_once(';').unwrap();
    asking("/", &[(COOKIE.as_str(), &format!("other=1; {pair}"))])
}

/// The value depends on the Service's secret, and not on the node.
#[tokio::test]
async fn l141_a_cookie_does_not_show_the_address_of_its_endpoint() {
    let of = |secret: &str| {
        let mut policy = sticky();
        policy.sticky.as_mut().unwrap().secret = secret.into();
        pick(&upstream(policy, &[1])).cookie().unwrap()
    };
    assert_eq!(of("8b0e"), of("8b0e"));
    assert_ne!(of("8b0e"), of("8b0f"));
}

#[tokio::test]
async fn l36_client_with_a_cookie_returns_to_its_endpoint() {
    let upstream = upstream(sticky(), &[1, 1, 1]);
    let first = pick(&upstream);
    let cookie = first.cookie().unwrap();
    let text = cookie.to_str().unwrap();
    assert!(
        text.starts_with("route=") && text.ends_with("; Path=/; HttpOnly"),
        "{text}"
    );
    assert!(
        !text.contains("10.0.0."),
        "the cookie hides the address: {text}"
    );

    let cookies = upstream.endpoints();
    let cookies = cookies.iter().map(|one| one.address).zip([
        "route=e4161906f2ea9d2d54ea475dec2abe70;",
        "route=1f16336d2de7469e5085104789d55425;",
        "route=6954bbf63643ce8c690e19fd880fd819;",
    ]);
    let (_, expected) = cookies
        .into_iter()
        .find(|(at, _)| *at == first.address())
        .unwrap();
    assert!(
        text.starts_with(expected),
        "the same on every node and in every version: {text}"
    );

    let request = returning(&first);
    for _ in 0..10 {
        let again = pick_for(&upstream, CLIENT, &request);
        assert_eq!((again.address(), again.cookie()), (first.address(), None));
    }
    // Such as one for a wider path, of an endpoint that is gone.
    let (_, pair) = request.headers()[COOKIE]
        .to_str()
        .unwrap()
        .split_once(' ')
        .unwrap();
    let several = asking(
        "/",
        &[(COOKIE.as_str(), &format!("route=stale; {pair}; route=x"))],
    );
    for _ in 0..10 {
        let again = pick_for(&upstream, CLIENT, &several);
        assert_eq!((again.address(), again.cookie()), (first.address(), None));
    }
    let other_node = self::upstream(sticky(), &[1, 1, 1]);
    assert_eq!(
        pick_for(&other_node, CLIENT, &request).address(),
        first.address()
    );
}

#[tokio::test(start_paused = true)]
async fn l36_client_moves_only_if_its_endpoint_is_unhealthy_or_gone() {
    let upstream = upstream(sticky(), &[1, 1, 1]);
    let first = pick(&upstream);
    let request = returning(&first);
    let input = PickInput::new(CLIENT, &request);
    let tried = upstream.pick(&input, &[first.address()]).unwrap();
    assert_ne!(tried.address(), first.address());
    assert_eq!(
        tried.cookie(),
        None,
        "one failure does not unpin the client"
    );

    fail(&upstream, first.address(), 5);
    let moved = pick_for(&upstream, CLIENT, &request);
    assert_ne!(moved.address(), first.address());
    assert!(moved.cookie().is_some());

    let mut left = weighted(&[1, 1, 1]);
    left.remove(&first.address());
    upstream.update(&left);
    assert!(pick_for(&upstream, CLIENT, &request).cookie().is_some());
}

#[tokio::test(start_paused = true)]
async fn l37_weight_of_a_new_endpoint_grows() {
    let policy = UpstreamPolicy {
        slow_start: 100 * S,
        ..UpstreamPolicy::default()
    };
    let upstream = upstream(policy, &[1, 1]);
    assert_eq!(
        distribution(&upstream, 100),
        expected([50, 50]),
        "no slow start if all are new"
    );
    upstream.update(&weighted(&[1, 1, 1]));
    assert_eq!(distribution(&upstream, 210), expected([100, 100, 10]));
    advance(50 * S).await;
    assert_eq!(distribution(&upstream, 250), expected([100, 100, 50]));
    advance(50 * S).await;
    assert_eq!(distribution(&upstream, 300), expected([100, 100, 100]));
}

#[tokio::test]
async fn l38_two_equal_health_checks_in_a_row_change_the_state() {
    let upstream = upstream(UpstreamPolicy::default(), &[1, 1, 1]);
    let endpoint = &upstream.endpoints()[0];
    let probed = |is_healthy: bool| {
        endpoint.record_probe(is_healthy.then_some(()).ok_or_else(|| "refused".into()));
        endpoint.health.state(tokio::time::Instant::now())
    };
    let unhealthy = || EndpointHealth::Unhealthy {
        reason: "refused".into(),
    };
    assert_eq!(probed(false), EndpointHealth::Healthy);
    assert_eq!(probed(true), EndpointHealth::Healthy);
    assert_eq!(probed(false), EndpointHealth::Healthy, "not in a row");
    assert_eq!(probed(false), unhealthy());
    assert_eq!(distribution(&upstream, 30), expected([0, 15, 15]));
    assert_eq!(probed(true), unhealthy());
    assert_eq!(probed(true), EndpointHealth::Healthy);
    assert_eq!(distribution(&upstream, 30), expected([10, 10, 10]));
}

fn outlier() -> UpstreamPolicy {
    UpstreamPolicy {
        outlier: OutlierPolicy {
            failures: 3,
            ejection: 10 * S,
        },
        ..UpstreamPolicy::default()
    }
}

#[tokio::test(start_paused = true)]
async fn l39_failures_in_a_row_eject_for_longer_each_time() {
    let upstream = upstream(outlier(), &[1, 1, 1]);
    let bad = address(1);
    fail(&upstream, bad, 2);
    upstream.endpoints()[0].record_response(StatusCode::OK, MS);
    fail(&upstream, bad, 2);
    assert_eq!(
        distribution(&upstream, 30),
        expected([10, 10, 10]),
        "not in a row"
    );

    for seconds in [10, 20, 30] {
        fail(&upstream, bad, 3);
        let health = upstream.state().endpoints[0].health.clone();
        let EndpointHealth::Ejected { remaining, reason } = health else {
            panic!("{health:?}");
        };
        assert_eq!(
            (remaining, reason.contains("reset")),
            (seconds * S, true),
            "{reason}"
        );
        advance(seconds * S - MS).await;
        assert_eq!(distribution(&upstream, 30), expected([0, 15, 15]));
        advance(MS).await;
        assert_eq!(distribution(&upstream, 30), expected([10, 10, 10]));
    }
    advance(101 * S).await;
    fail(&upstream, bad, 3);
    advance(10 * S).await;
    assert_eq!(
        upstream.state().endpoints[0].health,
        EndpointHealth::Healthy,
        "the ejections start again at 10 s"
    );
}

#[tokio::test(start_paused = true)]
async fn l39_status_502_503_and_504_eject_and_others_do_not() {
    let upstream = upstream(outlier(), &[1, 1]);
    let endpoints = upstream.endpoints();
    for status in [500, 404, 501] {
        (0..9)
            .for_each(|_| endpoints[0].record_response(StatusCode::from_u16(status).unwrap(), MS));
    }
    assert_eq!(
        upstream.state().endpoints[0].health,
        EndpointHealth::Healthy
    );
    for status in [502, 503, 504] {
        endpoints[0].record_response(StatusCode::from_u16(status).unwrap(), MS);
    }
    assert_ne!(
        upstream.state().endpoints[0].health,
        EndpointHealth::Healthy
    );
}

#[tokio::test(start_paused = true)]
async fn l39_all_endpoints_are_used_if_most_are_ejected() {
    let upstream = upstream(outlier(), &[1, 1, 1, 1]);
    fail(&upstream, address(1), 3);
    fail(&upstream, address(2), 3);
    assert_eq!(distribution(&upstream, 40), expected([0, 0, 20, 20]));
    assert!(!upstream.state().is_panicking);
    fail(&upstream, address(3), 3);
    assert!(upstream.state().is_panicking);
    assert_eq!(distribution(&upstream, 40), expected([10, 10, 10, 10]));
}

#[tokio::test]
async fn l40_endpoint_gets_no_more_requests_than_its_limit() {
    let policy = UpstreamPolicy {
        concurrent: Some(2),
        ..UpstreamPolicy::default()
    };
    let upstream = upstream(policy, &[1, 1]);
    let request = asking("/", &[]);
    let input = PickInput::new(CLIENT, &request);
    let mut held: Vec<_> = (0..4).map(|_| pick(&upstream)).collect();
    assert_eq!(upstream.pick(&input, &[]).unwrap_err(), NoEndpoint::Busy);
    let freed = held.pop().unwrap().address();
    assert_eq!(upstream.pick(&input, &[]).unwrap().address(), freed);
    assert_eq!(counts(held).values().sum::<usize>(), 3);
}

#[tokio::test]
async fn l43_equal_keys_have_the_same_upstream() {
    let upstreams = Upstreams::new(0);
    let key_of = |port| UpstreamKey {
        port,
        ..key(UpstreamPolicy::default())
    };
    let one = upstreams.ensure(&key_of(80));
    upstreams.update(&key_of(80), &weighted(&[1, 2]));
    assert!(Arc::ptr_eq(&one, &upstreams.clone().ensure(&key_of(80))));
    assert!(!Arc::ptr_eq(&one, &upstreams.ensure(&key_of(81))));

    fail(&one, address(1), 2);
    upstreams.update(&key_of(80), &weighted(&[3]));
    let state = &upstreams.snapshot()[0].endpoints;
    assert_eq!((state.len(), state[0].weight, state[0].failures), (1, 3, 2));

    upstreams.retain(|key| key.port == 81);
    assert_eq!(upstreams.snapshot().len(), 1);
    assert!(!Arc::ptr_eq(&one, &upstreams.ensure(&key_of(80))));
}

/// An address without a listener. The kernel does not assign port 1 to others.
const CLOSED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

#[tokio::test]
async fn l45_refused_connection_gives_the_request_back() {
    let upstream = Arc::new(Upstream::new(key(UpstreamPolicy::default()), 0));
    upstream.update(&BTreeMap::from([(CLOSED, 1)]));
    let request = Request::get("/").body(crate::body::Body::empty()).unwrap();
    let (pick, timeouts) = (pick(&upstream), Timeouts::default());
    let sent = upstream.send(&pick, request.into(), &timeouts, None);
    let error = sent.await.unwrap_err();
    assert_eq!(
        (error.kind, error.is_sent),
        (super::ErrorKind::Connect, false)
    );
    assert!(error.request.is_some());
    assert_eq!(upstream.state().endpoints[0].failures, 1);
}

#[tokio::test]
async fn l43_request_that_a_pooled_connection_did_not_take_goes_to_a_new_one() {
    let upstream = Arc::new(Upstream::new(key(UpstreamPolicy::default()), 0));
    upstream.update(&BTreeMap::from([(CLOSED, 1)]));
    let (near, far) = tokio::io::duplex(1024);
    let pooled = super::http1::Http1Conn::new(near);
    upstream.endpoints()[0].http1.put(pooled);
    drop(far);
    let request = Request::get("/").body(crate::body::Body::empty()).unwrap();
    let (pick, timeouts) = (pick(&upstream), Timeouts::default());
    let sent = upstream.send(&pick, request.into(), &timeouts, None).await;
    let error = sent.unwrap_err();
    assert_eq!(
        error.kind,
        super::ErrorKind::Connect,
        "the new connection is refused"
    );
    assert!(!error.is_sent && error.request.is_some());
}
