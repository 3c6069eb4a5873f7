//! Benchmarks of `tower-quota` beside its peers; see the bench targets.
