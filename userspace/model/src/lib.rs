//! Services, endpoints and nodes, without Kubernetes and without BPF.
