"""The ledger: path tree, rules, the embedded ledger and its fsck; knows neither HTTP nor configuration."""
