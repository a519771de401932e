//! Facts about the machine and the caller that a plan depends on: a value, so that a test can
//! have any.

use super::cgroup::Layout;
use super::cgroup::unit::Systemd;

/// What plans depend on besides what is asked for.
#[derive(Debug, Clone)]
pub struct Host {
    /// The caller's effective user id.
    pub uid: u32,
    /// The caller's effective group id.
    pub gid: u32,
    /// Whether the caller lives in a user namespace that is not the machine's own.
    pub in_user_namespace: bool,
    /// The cgroup hierarchies.
    pub cgroups: Layout,
    /// The caller's own group of version 2 where he may make groups in it; looked for where he
    /// is taken for an ordinary user.
    pub own_group: Option<String>,
    /// The systemd that can make groups; looked for where it is to.
    pub systemd: Option<Systemd>,
}

/// Root on a machine without cgroups.
impl Default for Host {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            in_user_namespace: false,
            cgroups: Layout::None,
            own_group: None,
            systemd: None,
        }
    }
}

impl Host {
    /// The facts for the log.
    pub fn summary(&self) -> String {
        let Self { uid, gid, in_user_namespace, cgroups, own_group, systemd } = self;
        let cgroups = match cgroups {
            Layout::V1 { unified: None, .. } => "version 1",
            Layout::V1 { unified: Some(_), .. } => "version 1, and 2 beside it",
            Layout::V2(_) => "version 2",
            Layout::None => "none",
        };
        let systemd = systemd.is_some();
        format!(
            "caller: uid {uid}, gid {gid}, in a user namespace: {in_user_namespace}; \
             cgroups: {cgroups}, own: {own_group:?}; systemd makes them: {systemd}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::Unified;
    use super::*;

    #[test]
    fn the_log_says_which_cgroups_a_machine_has() {
        let unified = || Unified { controllers: vec![], mount: "/c".into() };
        for (cgroups, name) in [
            (Layout::None, "none"),
            (Layout::V1 { hierarchies: vec![], unified: None }, "version 1"),
            (
                Layout::V1 { hierarchies: vec![], unified: Some(unified()) },
                "version 1, and 2 beside it",
            ),
            (Layout::V2(unified()), "version 2"),
        ] {
            let host = Host { uid: 7, gid: 8, cgroups, ..Host::default() };
            let expected = format!(
                "caller: uid 7, gid 8, in a user namespace: false; cgroups: {name}, own: None; \
                 systemd makes them: false"
            );
            assert_eq!(host.summary(), expected);
        }
    }
}
