//! NETLINK_GENERIC: there is one family, the controller, which says that there are no others.

use super::message::{attributes, read_u16, Header, Message, Reply};
use crate::{Errno, Result};

/// GENL_ID_CTRL.
const CONTROLLER: u16 = 16;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Serves one request (`struct genlmsghdr`: command, version, two bytes reserved).
pub fn serve(header: &Header, payload: &[u8], reply: &mut Reply) -> Result<()> {
    if header.kind != CONTROLLER {
        return Err(Errno::ENOENT);
    }
    if *payload.first().ok_or(Errno::EINVAL)? != CTRL_CMD_GETFAMILY {
        return Err(Errno::EOPNOTSUPP);
    }
    if !header.is_dump() {
        let asked = attributes(payload.get(4..).unwrap_or_default()).any(|(kind, value)| match kind {
            CTRL_ATTR_FAMILY_ID => read_u16(value, 0) == Some(CONTROLLER),
            CTRL_ATTR_FAMILY_NAME => value == b"nlctrl\0",
            _ => false,
        });
        if !asked {
            return Err(Errno::ENOENT);
        }
    }
    let message = Message::new(&[CTRL_CMD_NEWFAMILY, 2, 0, 0])
        .string(CTRL_ATTR_FAMILY_NAME, "nlctrl")
        .attribute(CTRL_ATTR_FAMILY_ID, &CONTROLLER.to_ne_bytes())
        .u32(3, 2) // CTRL_ATTR_VERSION
        .u32(4, 0) // CTRL_ATTR_HDRSIZE
        .u32(5, 10); // CTRL_ATTR_MAXATTR
    reply.add(CONTROLLER, message);
    Ok(())
}
