//! The states of a container, and what may be done with it in which.

use anyhow::Result;

use crate::error::Kind;

/// The states of a container (runtime.md#state), and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work, or has died over it.
    Creating,
    /// Everything is there but the program.
    Created,
    /// The program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its init process has ended.
    Stopped,
}

/// What may be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Run the program.
    Start,
    /// Signal the init process.
    Kill,
    /// Run another program in it.
    Exec,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Remove, without force.
    Delete,
    /// List its processes.
    Ps,
    /// Change its limits.
    Update,
    /// Read what it uses.
    Events,
    /// Write an image of it.
    Checkpoint,
}

impl Status {
    /// The name that `state` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// Whether `operation` is allowed now; if not, the reason in the words that
    /// callers look for.
    pub fn check(self, operation: Operation) -> Result<()> {
        use Operation::*;
        use Status::*;
        let reason = match (operation, self) {
            (Start, Created)
            | (Kill, Created | Running | Paused)
            | (Exec, Created | Running)
            | (Pause, Created | Running)
            | (Resume, Paused)
            | (Delete, Created | Stopped)
            | (Ps, Created | Running | Paused) => return Ok(()),
            // Nothing runs any more, which is not an error for a list.
            (Ps, Stopped) => return Ok(()),
            (Update | Events, Created | Running | Paused) => return Ok(()),
            (Checkpoint, Running | Paused) => return Ok(()),
            (_, Creating) => "container is still being created",
            (Start, Running | Paused) => "cannot start an already running container",
            (Start, Stopped) => "cannot start a container that has stopped",
            (Kill | Pause | Update | Events | Checkpoint, Stopped) => "container not running",
            // runc says no more than the first three words.
            (Pause, Paused) => "container not running: it is paused already",
            (Exec, Stopped) => "cannot exec in a stopped container",
            (Exec, Paused) => "cannot exec in a paused container (use --ignore-paused to override)",
            (Checkpoint, Created) => "container cannot be checkpointed in created state",
            (Resume, _) => "container not paused",
            (Delete, Running | Paused) => "is not stopped",
        };
        Err(Kind::WrongState.error(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_cycle_allows_this_and_nothing_else() {
        use Operation::*;
        use Status::*;
        let operations = [Start, Kill, Exec, Pause, Resume, Delete, Ps, Update, Events, Checkpoint];
        for (status, allowed) in [
            (Creating, vec![]),
            (Created, vec![Start, Kill, Exec, Pause, Delete, Ps, Update, Events]),
            (Running, vec![Kill, Exec, Pause, Ps, Update, Events, Checkpoint]),
            (Paused, vec![Kill, Resume, Ps, Update, Events, Checkpoint]),
            (Stopped, vec![Delete, Ps]),
        ] {
            for operation in operations {
                assert_eq!(
                    status.check(operation).is_ok(),
                    allowed.contains(&operation),
                    "{operation:?} when {status:?}"
                );
            }
        }
    }
}
