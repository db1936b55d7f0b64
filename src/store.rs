//! Named blobs of the two proxies.
