//! Sources, desired state and diff.
