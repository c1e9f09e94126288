//! Golden packets through the host walk and the kernel.
