//! Which trace a request belongs to.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use headgate_model::edge::Policy;
use headgate_proxy::{AccessLog, LogFormat, Settings, TraceSettings};
use http::HeaderMap;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::{
    collector::{Collector, Mood},
    setup::{PARENT, Setup, TRACE, UNSAMPLED_PARENT, exporting_to, until},
};

/// Returns trace, parent and flags that a backend received.
fn context(headers: &HeaderMap) -> (String, String, String) {
    let all: Vec<_> = headers.get_all("traceparent").iter().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    let fields: Vec<&str> = all[0].to_str().unwrap().split('-').collect();
    let ["00", trace, span, flags] = fields[..] else {
        panic!("{all:?}");
    };
    assert_eq!((trace.len(), span.len()), (32, 16));
    (trace.into(), span.into(), flags.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn l90_the_trace_of_a_client_continues_at_the_backend() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    let state = [
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ];
    let seen = setup.pass(&state).await;
    setup.collected(2).await;
    let server = setup.collector.one(SpanKind::Server);
    let client = setup.collector.one(SpanKind::Client);
    assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
    assert_eq!(client.parent_span_id, server.span_id);
    let (trace, parent, flags) = context(&seen);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    assert_eq!(parent, hex(&client.span_id));
    let states: Vec<_> = seen.get_all("tracestate").iter().collect();
    assert_eq!(states, ["a=1", "b=2"]);
    for span in [&server, &client] {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(span.trace_state, "a=1,b=2");
    }
    assert_ne!(server.span_id, client.span_id);
    let random = PARENT.replace("-01", "-03");
    let seen = setup.pass(&[("traceparent", &random)]).await;
    assert_eq!(context(&seen).2, "03");
}

#[tokio::test]
async fn l90_without_a_valid_parent_a_trace_begins() {
    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    let bad = [
        vec![],
        vec![(
            "traceparent",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )],
        vec![(
            "traceparent",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        )],
        vec![(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
        )],
        vec![("traceparent", PARENT), ("traceparent", PARENT)],
    ];
    for (number, headers) in bad.iter().enumerate() {
        let mut headers = headers.clone();
        headers.push(("tracestate", "a=1"));
        let seen = setup.pass(&headers).await;
        let (trace, _, flags) = context(&seen);
        assert_ne!(trace, TRACE, "{headers:?}");
        assert_eq!(flags, "01");
        assert_eq!(seen.get("tracestate"), None, "{headers:?}");
        setup.collected(2 * (number + 1)).await;
    }
    let spans = setup.collector.spans();
    let roots = spans.iter().filter(|span| span.kind() == SpanKind::Server);
    assert!(roots.clone().all(|root| root.parent_span_id.is_empty()));
    let traces: std::collections::BTreeSet<_> = roots.map(|root| &root.trace_id).collect();
    assert_eq!(traces.len(), bad.len());
}

#[tokio::test]
async fn l90_an_ingress_may_accept_parents_of_trusted_proxies_only() {
    let policy = Policy {
        trusts_traces: false,
        ..Policy::default()
    };
    let parent = [("traceparent", PARENT), ("tracestate", "a=1")];
    let setup = Setup::new(policy.clone(), Collector::listening(Mood::Taking)).await;
    let seen = setup.pass(&parent).await;
    assert_ne!(context(&seen).0, TRACE);
    assert_eq!(seen.get("tracestate"), None);
    let trusting = Settings {
        trusted: vec!["127.0.0.1/32".parse().unwrap()],
        ..Settings::default()
    };
    let collector = Collector::listening(Mood::Taking);
    let traces = exporting_to(&collector);
    let setup = Setup::with(policy, collector, traces, trusting).await;
    let seen = setup.pass(&parent).await;
    assert_eq!(context(&seen).0, TRACE);
    assert_eq!(seen["tracestate"], "a=1");
}

#[tokio::test]
async fn l92_an_ingress_without_traces_forwards_headers() {
    let policy = Policy {
        traces: false,
        ..Policy::default()
    };
    let setup = Setup::new(policy, Collector::listening(Mood::Taking)).await;
    let seen = setup.pass(&[("traceparent", "what it likes")]).await;
    assert_eq!(seen["traceparent"], "what it likes");
    assert_eq!(setup.pass(&[]).await.get("traceparent"), None);
    // A request without a rule is traced. Its span is the first, so none was exported before.
    setup.get("/nowhere", &[]).await;
    setup.collected(1).await;
    assert_eq!(setup.collector.one(SpanKind::Server).name, "GET");
}

#[tokio::test]
async fn l92_unsampled_traces_are_forwarded_and_not_exported() {
    let collector = Collector::listening(Mood::Taking);
    let traces = TraceSettings {
        rate: 0.0,
        ..exporting_to(&collector)
    };
    let setup = Setup::with(Policy::default(), collector, traces, Settings::default()).await;
    for _ in 0..20 {
        let (trace, _, flags) = context(&setup.pass(&[]).await);
        assert_ne!(trace, TRACE);
        assert_eq!(flags, "00");
    }
    // The service that begins a trace decides.
    let seen = setup.pass(&[("traceparent", PARENT)]).await;
    assert_eq!(context(&seen).2, "01");
    setup.collected(2).await;
    assert_eq!(hex(&setup.collector.one(SpanKind::Server).trace_id), TRACE);

    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    let state = [("traceparent", UNSAMPLED_PARENT), ("tracestate", "a=1")];
    let seen = setup.pass(&state).await;
    assert_eq!(seen["traceparent"], UNSAMPLED_PARENT);
    assert_eq!(seen["tracestate"], "a=1");
    setup.pass(&[]).await;
    setup.collected(2).await;
    assert_ne!(hex(&setup.collector.one(SpanKind::Server).trace_id), TRACE);
}

#[tokio::test]
async fn l92_the_ratio_of_new_traces_is_sampled() {
    let collector = Collector::listening(Mood::Taking);
    let traces = TraceSettings {
        rate: 0.5,
        ..exporting_to(&collector)
    };
    let setup = Setup::with(Policy::default(), collector, traces, Settings::default()).await;
    let mut sampled = 0;
    for _ in 0..200 {
        sampled += usize::from(context(&setup.pass(&[]).await).2 == "01");
    }
    // Off by more than this once in a billion runs.
    assert!((55..=145).contains(&sampled), "{sampled}");
    setup.collected(2 * sampled).await;
}

#[tokio::test]
async fn l90_the_access_log_has_the_trace() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let settings = Settings {
        log: Some(Arc::new(AccessLog::new(LogFormat::Json, lines.clone()))),
        ..Settings::default()
    };
    let collector = Collector::listening(Mood::Taking);
    let traces = exporting_to(&collector);
    let setup = Setup::with(Policy::default(), collector, traces, settings).await;
    // Unsampled traces are logged too: other services log the same trace.
    setup.pass(&[("traceparent", UNSAMPLED_PARENT)]).await;
    until("a line", || lines.0.lock().unwrap().ends_with(b"\n")).await;
    let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
    assert_eq!(line["trace_id"], TRACE);
}
