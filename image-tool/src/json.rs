//! JSON as Go programs write it: what they have nothing to say of is null as often as it
//! is left out.

use serde::{Deserialize, Deserializer};

/// A value, or the default one for null.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
