//! Whose trace it is.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use headgate_model::ingress::Policy;
use headgate_proxy::{AccessLog, LogFormat, Settings, TraceSettings};
use http::HeaderMap;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::{
    collector::{Collector, Mood},
    setup::{PARENT, SILENT_PARENT, Setup, TRACE, told, until},
};

/// Trace, parent and flags that a backend was told of.
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
async fn l90_the_trace_of_a_client_goes_on_to_the_backend() {
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
async fn l90_without_a_parent_or_with_a_bad_one_a_trace_begins() {
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
async fn l90_an_ingress_may_believe_trusted_proxies_alone() {
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
    let traces = told(&collector);
    let setup = Setup::with(policy, collector, traces, trusting).await;
    let seen = setup.pass(&parent).await;
    assert_eq!(context(&seen).0, TRACE);
    assert_eq!(seen["tracestate"], "a=1");
}

#[tokio::test]
async fn l92_an_ingress_without_traces_passes_headers_on() {
    let policy = Policy {
        traces: false,
        ..Policy::default()
    };
    let setup = Setup::new(policy, Collector::listening(Mood::Taking)).await;
    let seen = setup.pass(&[("traceparent", "what it likes")]).await;
    assert_eq!(seen["traceparent"], "what it likes");
    assert_eq!(setup.pass(&[]).await.get("traceparent"), None);
    // What no rule matches is nobody's, and traced: if something had been told, it would be first.
    setup.get("/nowhere", &[]).await;
    setup.collected(1).await;
    assert_eq!(setup.collector.one(SpanKind::Server).name, "GET");
}

#[tokio::test]
async fn l92_what_is_not_sampled_is_passed_on_and_not_told() {
    let collector = Collector::listening(Mood::Taking);
    let traces = TraceSettings {
        rate: 0.0,
        ..told(&collector)
    };
    let setup = Setup::with(Policy::default(), collector, traces, Settings::default()).await;
    for _ in 0..20 {
        let (trace, _, flags) = context(&setup.pass(&[]).await);
        assert_ne!(trace, TRACE);
        assert_eq!(flags, "00");
    }
    // Who begins a trace decides.
    let seen = setup.pass(&[("traceparent", PARENT)]).await;
    assert_eq!(context(&seen).2, "01");
    setup.collected(2).await;
    assert_eq!(hex(&setup.collector.one(SpanKind::Server).trace_id), TRACE);

    let setup = Setup::new(Policy::default(), Collector::listening(Mood::Taking)).await;
    let state = [("traceparent", SILENT_PARENT), ("tracestate", "a=1")];
    let seen = setup.pass(&state).await;
    assert_eq!(seen["traceparent"], SILENT_PARENT);
    assert_eq!(seen["tracestate"], "a=1");
    setup.pass(&[]).await;
    setup.collected(2).await;
    assert_ne!(hex(&setup.collector.one(SpanKind::Server).trace_id), TRACE);
}

#[tokio::test]
async fn l92_so_many_of_new_traces_are_told() {
    let collector = Collector::listening(Mood::Taking);
    let traces = TraceSettings {
        rate: 0.5,
        ..told(&collector)
    };
    let setup = Setup::with(Policy::default(), collector, traces, Settings::default()).await;
    let mut told = 0;
    for _ in 0..200 {
        told += usize::from(context(&setup.pass(&[]).await).2 == "01");
    }
    // Off by more than this once in a billion runs.
    assert!((55..=145).contains(&told), "{told}");
    setup.collected(2 * told).await;
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
    let traces = told(&collector);
    let setup = Setup::with(Policy::default(), collector, traces, settings).await;
    // Others have the trace in their logs too, whether spans are told or not.
    setup.pass(&[("traceparent", SILENT_PARENT)]).await;
    until("a line", || lines.0.lock().unwrap().ends_with(b"\n")).await;
    let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
    assert_eq!(line["trace_id"], TRACE);
}
