//! What some kernel calls take, as data: `plan` fills it in and `sys` hands it over. It stands
//! here because `plan` knows nothing of `sys`, where the calls are.

/// The argument of mount_setattr(2): bits to set and to clear, propagation to
/// give. The bits are MOUNT_ATTR_* of linux/mount.h, propagation is one of
/// MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// Attributes to switch on.
    pub set: u64,
    /// Attributes to switch off.
    pub clear: u64,
    /// The propagation type to give, 0 for none.
    pub propagation: u64,
    /// A user namespace whose mappings the mount takes; only for MOUNT_ATTR_IDMAP.
    pub user_namespace: u64,
}

/// The argument of sched_setattr(2); runtime, deadline and period in nanoseconds.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// The length of this structure in bytes.
    pub size: u32,
    /// SCHED_*.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

impl SchedulerAttributes {
    /// Whether a child has them too: with SCHED_DEADLINE there cannot be one, and
    /// SCHED_FLAG_RESET_ON_FORK keeps them from it.
    pub fn are_inherited(&self) -> bool {
        const SCHED_DEADLINE: u32 = 6;
        const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
        self.policy != SCHED_DEADLINE && self.flags & SCHED_FLAG_RESET_ON_FORK == 0
    }
}

/// The flags by which a process clones its sibling. The exit signal is the caller's own.
pub const SIBLING: u64 = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
