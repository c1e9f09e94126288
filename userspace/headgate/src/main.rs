//! Kubernetes service load balancing in the kernel.

fn main() {}
