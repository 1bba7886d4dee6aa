//! The D-Bus contract: the XML, the proxies made from it, value types, error names.
