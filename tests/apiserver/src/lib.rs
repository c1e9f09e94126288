//! A stand-in Kubernetes API server for tests: real protocol, small server, no etcd.
//!
//! [`ApiServer`] serves the resources of a service load balancer to any client, including `kubectl` and
//! client libraries, and simulates faults on demand. [`TestServer`] is either this server or, if
//! `KUBEBUILDER_ASSETS` names its folder, the real one.
//!
//! # Like the real server
//!
//! - Resources: `v1` services, nodes, namespaces, pods, endpoints, configmaps, secrets, events;
//!   `discovery.k8s.io/v1` endpointslices; `networking.k8s.io/v1` ingresses, ingressclasses
//!   and servicecidrs;
//!   `coordination.k8s.io/v1` leases; `events.k8s.io/v1` events (the same objects as `v1` events);
//!   `apiextensions.k8s.io/v1` customresourcedefinitions, and the resources that they define.
//! - Verbs: get, list, watch, create, update, patch (JSON, merge, strategic merge, apply), delete,
//!   deletecollection, and `/status`. Dry runs, preconditions, finalizers, `generateName`.
//! - Versions: one counter; optimistic concurrency; a write without a change makes no version.
//! - Lists: label and field selectors, paging that is consistent between pages, exact versions.
//! - Watches: `""`, `0` and exact versions; bookmarks; streaming lists (`sendInitialEvents`); an object
//!   that leaves a selector is DELETED; 410 as an event in the stream, as from the API.
//! - Fields: types are checked, unknown fields are dropped with a warning, or refused when
//!   validation is strict. Services get defaults, are validated, and get cluster addresses of one
//!   or two families, node ports and a health-check node port. Refusals name field and reason.
//! - Custom resources: definitions come, change and go at run time ([`GATEWAY_API_CRDS`] has some). Names,
//!   scope, versions, `/status`, printer columns and selectable fields are those of the definition. By the
//!   schema, unknown fields are pruned, defaults are filled in, and objects are validated: types, ranges,
//!   lengths, patterns, formats, enums, `anyOf` and the like, unique keys of lists. A changed definition
//!   closes the watches of its resources; a deleted one deletes its objects first, and waits for their
//!   finalizers. `metadata.generation` counts changes. Strategic merge is refused with 415.
//! - Clients: discovery, classic and aggregated; Tables for `kubectl get`; TLS, bearer tokens,
//!   HTTP/1.1 and HTTP/2; `kubectl apply` with its default validation.
//! - Other resources answer 404.
//!
//! # Unlike the real server
//!
//! - No controllers: nothing makes EndpointSlices, and pods do not run. The exceptions: deleting a Namespace
//!   deletes its objects at once, and [`Options::collects_garbage`] deletes objects without a living owner.
//! - Rules in CEL (`x-kubernetes-validations`) are not evaluated. A schema may be invalid in ways that JSON
//!   Schema allows: it need not be structural, nor its defaults valid.
//! - The status of a CustomResourceDefinition is set at once, and two of them may use the same names. There
//!   are no webhooks for conversion and no `/scale`. Custom resources are pruned and completed when they are
//!   written, not when they are read. Printer columns have the syntax of RFC 9535.
//! - JSON and YAML only; protobuf is refused with 406 or 415.
//! - Server-side apply keeps no `managedFields` and finds no conflicts: it merges, removes fields that the
//!   same manager applied before, and replaces lists as a whole.
//! - Strategic merge knows the merge keys of Services, Nodes, Pods and metadata.
//! - Writing `/status` changes only `status`, not labels.
//! - Cluster addresses and node ports are assigned in order, not at random.
//! - For built-in kinds other than Services and EndpointSlices, only names and field types are validated.
//! - Deletion is immediate; grace periods and propagation policies are ignored.
//! - The OpenAPI documents have no schemas, so `kubectl explain` shows nothing. There are no roles,
//!   admission webhooks, subresources other than status, or proxies.
//! - There is one user. [`Options::authorize`] decides about each request.
//!
//! # Use
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use headgate_apiserver::{ApiServer, Options};
//!
//! let server = ApiServer::start(Options::default()).await?;
//! std::fs::write("kubeconfig", server.kubeconfig())?;
//! server.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")?;
//! server.compact(server.version());
//! server.drop_watches();
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod allocation;
mod convert;
mod custom;
mod defaults;
mod definitions;
mod deletion;
mod discovery;
mod error;
mod faults;
mod garbage;
mod handle;
mod handler;
mod negotiate;
mod operations;
mod options;
mod patch;
mod real;
mod request;
mod resource;
mod schema;
mod schema_rules;
mod selector;
mod server;
mod service;
mod storage;
mod table;
mod tls;
mod validation;
mod watch;

pub use error::ApiError;
pub use handle::ApiServer;
pub use options::{Attributes, Authorize, Options, StartError};
pub use real::{ASSETS, RealServer, TestServer};

/// The CustomResourceDefinitions of the Gateway API v1.6.1, standard channel, for [`ApiServer::apply_yaml`].
/// Their schemas have no descriptions.
pub const GATEWAY_API_CRDS: &str = include_str!("../crds/gateway-api-v1.6.1.yaml");
