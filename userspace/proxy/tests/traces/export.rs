//! How spans get to a collector, or not.

use headgate_model::ingress::Policy;
use headgate_proxy::{Settings, SpanCounts, TraceSettings};
use http::StatusCode;

use crate::{
    collector::{Collector, Mood},
    setup::{Setup, told, until},
};

/// A proxy with little room for what is not told yet.
async fn narrow(collector: Collector) -> Setup {
    let traces = TraceSettings {
        max_waiting: 2,
        ..told(&collector)
    };
    Setup::with(Policy::default(), collector, traces, Settings::default()).await
}

/// Sends requests until spans find no room, each of which is answered. Returns how many.
async fn fill(setup: &Setup) -> u64 {
    for sent in 1..5000 {
        assert_eq!(setup.get("/shop", &[]).await, StatusCode::OK);
        if setup.proxy.spans().unwrap().dropped > 0 {
            return sent;
        }
    }
    panic!("never: {:?}", setup.proxy.spans());
}

#[tokio::test]
async fn l93_a_collector_that_is_away_delays_no_request_and_what_is_dropped_is_counted() {
    let mut setup = narrow(Collector::away()).await;
    let sent = fill(&setup).await;
    assert_eq!(setup.proxy.spans().unwrap().exported, 0);
    setup.collector.listen();
    let all = || {
        let counts = setup.proxy.spans().unwrap();
        counts.exported + counts.dropped == 2 * sent
    };
    until("all spans are accounted for", all).await;
    let counts = setup.proxy.spans().unwrap();
    assert_eq!(setup.collector.spans().len() as u64, counts.exported);
    assert_eq!(counts.refused, 0);
}

#[tokio::test]
async fn l93_a_collector_that_is_silent_delays_no_request() {
    let setup = narrow(Collector::listening(Mood::Silent)).await;
    fill(&setup).await;
    assert_eq!(setup.proxy.spans().unwrap().exported, 0);
}

#[tokio::test]
async fn l93_a_collector_that_is_busy_is_told_later() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Busy)).await;
    setup.get("/shop", &[]).await;
    until("it was asked", || setup.collector.asked() > 0).await;
    assert_eq!(setup.collector.spans(), []);
    setup.collector.set(Mood::Taking);
    setup.collected(2).await;
    let counts = || setup.proxy.spans().unwrap();
    let expected = SpanCounts {
        exported: 2,
        ..SpanCounts::default()
    };
    until("it is counted", || counts() == expected).await;
}

#[tokio::test]
async fn l93_what_a_collector_refuses_is_counted_and_the_rest_goes_on() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Refusing)).await;
    setup.get("/shop", &[]).await;
    let counts = || setup.proxy.spans().unwrap();
    until("it is refused", || counts().refused == 2).await;
    setup.collector.set(Mood::Taking);
    setup.get("/shop", &[]).await;
    setup.collected(2).await;
    until("it is counted", || counts().exported == 2).await;
    assert_eq!((counts().dropped, counts().refused), (0, 2));
}

#[tokio::test]
async fn l93_what_waits_is_told_at_the_end() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    setup.get("/shop", &[]).await;
    // Once its answer is sent, a request waits for others to be told with it.
    while setup.collector.spans().is_empty() {
        setup.proxy.flush_spans().await;
    }
    assert_eq!(setup.proxy.spans().unwrap().exported, 2);
    assert_eq!(setup.collector.asked(), 1);
}
