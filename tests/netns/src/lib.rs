//! Clusters of network namespaces for demo and tests.
