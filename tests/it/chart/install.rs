//! Install, upgrade and uninstall on a control plane of its own, since the chart's CRD is the cluster's.
