#![doc = include_str!("links.md")]
#![doc = include_str!("../../docs/guide/README.md")]

/// Files of `docs/guide`. There the links lead to other files; here to the modules that those are, since of two definitions of a
/// link the first one counts.
macro_rules! pages {
    ($($page:ident)+) => {
        $(
            #[doc = include_str!("links.md")]
            #[doc = include_str!(concat!("../../docs/guide/", stringify!($page), ".md"))]
            pub mod $page {}
        )+
    };
}

pages! {
    start setups rules batches fences replicas gateway failures migration operating security troubleshooting
}
