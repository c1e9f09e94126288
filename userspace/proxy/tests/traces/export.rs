//! Export of spans to a collector, and its failures.

use headgate_model::edge::Policy;
use headgate_proxy::{Settings, SpanCounts, TraceSettings};
use http::StatusCode;

use crate::{
    collector::{Collector, Mood},
    setup::{Setup, exporting_to, until},
};

/// Returns a proxy with a short queue of spans.
async fn narrow(collector: Collector) -> Setup {
    let traces = TraceSettings {
        max_waiting: 2,
        ..exporting_to(&collector)
    };
    Setup::with(Policy::default(), collector, traces, Settings::default()).await
}

/// Sends requests until spans are dropped; each gets its response. Returns their number.
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
async fn l93_an_unreachable_collector_delays_no_request_and_dropped_spans_are_counted() {
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
async fn l93_a_silent_collector_delays_no_request() {
    let setup = narrow(Collector::listening(Mood::Silent)).await;
    fill(&setup).await;
    assert_eq!(setup.proxy.spans().unwrap().exported, 0);
}

#[tokio::test]
async fn l93_a_busy_collector_gets_spans_later() {
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
async fn l93_refused_spans_are_counted_and_export_continues() {
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
async fn l93_queued_spans_are_exported_at_the_end() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    setup.get("/shop", &[]).await;
    // After its response, a request waits in a batch for others.
    while setup.collector.spans().is_empty() {
        setup.proxy.flush().await;
    }
    assert_eq!(setup.proxy.spans().unwrap().exported, 2);
    assert_eq!(setup.collector.asked(), 1);
}
