#![doc = include_str!("../docs/guide/README.md")]

/// A file of `docs/guide`. There its links lead to other files; here to the modules that those are, since of two definitions of
/// a link the first counts.
macro_rules! pages {
    ($($page:ident)+) => {
        $(
            #[doc = concat!(
                "[start]: crate::guide::start\n",
                "[setups]: crate::guide::setups\n",
                "[rules]: crate::guide::rules\n",
                "[batches]: crate::guide::batches\n",
                "[fences]: crate::guide::fences\n",
                "[replicas]: crate::guide::replicas\n",
                "[failures]: crate::guide::failures\n",
                "[migration]: crate::guide::migration\n",
                "[operating]: crate::guide::operating\n",
                "[security]: crate::guide::security\n",
                "[troubleshooting]: crate::guide::troubleshooting\n",
            )]
            #[doc = include_str!(concat!("../docs/guide/", stringify!($page), ".md"))]
            pub mod $page {}
        )+
    };
}

pages! {
    start setups rules batches fences replicas failures migration operating security troubleshooting
}
