//! The user and the groups of the program, and its capabilities: they change together, since
//! a change of ids takes capabilities away.

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets as ThreadSets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, set_capabilities, set_keep_capabilities,
};

use crate::error::InField as _;
use crate::log;
use crate::plan::capabilities::CapabilitySets;
use crate::plan::process::{ProcessPlan, User};
use crate::sys::process as kernel;

/// CAP_SYS_ADMIN, which loading a filter needs.
const SYS_ADMIN: u64 = 1 << 21;

/// Capabilities as bit masks: what the runtime holds, and what of the wanted sets it can give.
pub struct Granted {
    held: u64,
    wanted: CapabilitySets,
}

impl Granted {
    /// Looks what the runtime holds, and warns of what it cannot give.
    pub fn of(plan: &ProcessPlan) -> Result<Self> {
        let field = plan.field.of("capabilities");
        let held = capabilities(None).context("capget").in_field(field)?.permitted.bits();
        let granted = plan.capabilities.of_what_is(held, field);
        granted.warnings.iter().for_each(log::warn);
        Ok(Self { held, wanted: granted.sets })
    }
}

/// Changes ids and capabilities. Returns the sets that the program is to have;
/// those in force keep CAP_SYS_ADMIN where the filter will need it.
pub fn set_user(plan: &ProcessPlan, granted: &Granted) -> Result<ThreadSets> {
    let field = plan.field.of("capabilities");
    let &Granted { held, ref wanted } = granted;
    drop_bounding(plan.capabilities.bounding, held).in_field(format_args!("{field}.bounding"))?;
    set_keep_capabilities(true).context("prctl")?;
    set_ids(plan)?;
    let extra = if plan.filter_needs_admin() { SYS_ADMIN & held } else { 0 };
    let sets = |extra: u64| ThreadSets {
        effective: CapabilitySet::from_bits_retain(wanted.effective | extra),
        permitted: CapabilitySet::from_bits_retain(wanted.permitted | extra),
        inheritable: CapabilitySet::from_bits_retain(wanted.inheritable),
    };
    set_capabilities(None, sets(extra)).context("capset").in_field(field)?;
    clear_ambient_capability_set().context("prctl").in_field(format_args!("{field}.ambient"))?;
    for bit in (0..64).map(|number| 1 << number).filter(|bit| wanted.ambient & bit != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)
            .context("prctl")
            .in_field(format_args!("{field}.ambient"))?;
    }
    Ok(sets(0))
}

/// Drops from the bounding set what is not `wanted`. Who may not drop is left
/// with it; he holds nothing either.
fn drop_bounding(wanted: u64, held: u64) -> Result<()> {
    const SETPCAP: u64 = 1 << 8;
    if held & SETPCAP == 0 {
        return Ok(());
    }
    for number in (0..64).filter(|number| wanted & 1 << number == 0) {
        match kernel::drop_bounding(number) {
            Ok(()) => {}
            // Past the last one that this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno).context("prctl"),
        }
    }
    Ok(())
}

fn set_ids(plan: &ProcessPlan) -> Result<()> {
    let User { uid, gid, groups, .. } = &plan.user;
    let mut result = kernel::set_ids(*uid, *gid, Some(groups));
    if result == Err(("setgroups", Errno::EPERM)) && groups.is_empty() {
        // In a user namespace that an ordinary user mapped himself nobody may set
        // groups (user_namespaces(7)), so none can be dropped either.
        result = kernel::set_ids(*uid, *gid, None);
    }
    result.map_err(|(call, errno)| {
        let (property, value) = match call {
            "setgroups" => ("user.additionalGids", format!("{groups:?}")),
            "setresgid" => ("user.gid", gid.to_string()),
            _ => ("user.uid", uid.to_string()),
        };
        let error = anyhow::Error::new(errno).context(call).context(value);
        error.context(plan.field.of(property))
    })
}
