//! What this runtime can do, fixed when it was built (features.md).

use serde_json::json;

use crate::bundle::OCI_VERSION;
use crate::plan::options::known_words;

/// An object of the form that features-schema.json describes.
pub fn features() -> serde_json::Value {
    let mut capabilities: Vec<_> =
        caps::all().into_iter().map(|capability| (capability.index(), capability)).collect();
    capabilities.sort_by_key(|(index, _)| *index);
    let capabilities: Vec<String> =
        capabilities.into_iter().map(|(_, capability)| capability.to_string()).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "mountOptions": known_words().collect::<Vec<_>>(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ferrun_seccomp::ACTIONS,
                "operators": ferrun_seccomp::OPERATORS,
                "archs": ferrun_seccomp::architectures().collect::<Vec<_>>(),
                "knownFlags": ferrun_seccomp::FLAGS,
                "supportedFlags": ferrun_seccomp::FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {
                "modes": [
                    "MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"
                ],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true}
        },
        "annotations": {
            "org.ferrun.version": env!("CARGO_PKG_VERSION"),
            // By the name that runc and crun have given it.
            "org.opencontainers.runc.checkpoint.enabled": "true"
        },
        "potentiallyUnsafeConfigAnnotations": ["bundle", "org.systemd.property.", "org.criu.config"]
    })
}
