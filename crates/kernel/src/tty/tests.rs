use super::*;
use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags, Transfer};
use crate::task::{clone_task, CloneRequest};
use crate::testing::{address_of, address_of_mut, context, kernel, process};
use skerry_abi::signal::Signal;
use std::sync::Arc;

const TIOCPKT: u32 = 0x5420;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSTI: u32 = 0x5412;
const TIOCEXCL: u32 = 0x540c;
const TIOCNOTTY: u32 = 0x5422;
const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;

struct Pair {
    kernel: Arc<Kernel>,
    terminal: Arc<Terminal>,
    master: Arc<OpenFile>,
    slave: Arc<OpenFile>,
}

fn open(operations: Arc<dyn FileOperations>) -> Arc<OpenFile> {
    OpenFile::new(operations, StatusFlags::RDWR, None)
}

fn pair() -> Pair {
    let kernel = kernel();
    let terminal = kernel.terminals.create(&kernel, (0, 5)).unwrap();
    terminal.state().locked = false;
    let master = open(MasterFile::new(terminal.clone(), None));
    let slave = open(SlaveFile::open_for_boot(&terminal, None).unwrap());
    Pair { kernel, terminal, master, slave }
}

fn read(file: &Arc<OpenFile>) -> Result<String> {
    let mut buffer = [0; 128];
    let count = file.operations.read(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn write(file: &Arc<OpenFile>, text: &str) -> Result<usize> {
    file.operations.write(file, text.as_bytes(), 0)
}

fn ioctl(task: &Arc<Task>, file: &Arc<OpenFile>, request: u32, argument: u64) -> Result<u64> {
    file.operations.ioctl(&mut context(task), file, request, argument)
}

fn has_pending(task: &Arc<Task>, signal: Signal) -> bool {
    task.process().signals.lock().pending.set.contains(signal)
}

/// A child of `parent`, in a group of its own.
fn background_child(parent: &Arc<Task>) -> Arc<Task> {
    let request = CloneRequest { exit_signal: Signal::SIGCHLD.number(), ..CloneRequest::default() };
    let child = clone_task(&context(parent), &request).unwrap();
    crate::task::job_control::set_group(parent.process(), child.tid(), 0).unwrap();
    child
}

#[test]
fn what_is_typed_reaches_the_program_and_the_other_way_round() {
    let pair = pair();
    assert_eq!(read(&pair.slave), Err(Errno::EAGAIN));
    assert!(!pair.slave.operations.poll().contains(Events::IN));
    assert_eq!(write(&pair.master, "ls\r"), Ok(3));
    assert!(pair.slave.operations.poll().contains(Events::IN | Events::OUT));
    assert_eq!(read(&pair.slave).as_deref(), Ok("ls\n"));
    assert_eq!(read(&pair.master).as_deref(), Ok("ls\r\n"));
    assert_eq!(write(&pair.slave, "out\n"), Ok(4));
    assert_eq!(read(&pair.master).as_deref(), Ok("out\r\n"));
    assert_eq!(read(&pair.master), Err(Errno::EAGAIN));
}

#[test]
fn the_slave_is_locked_until_the_master_unlocks_it_and_gone_after_the_master() {
    let kernel = kernel();
    let task = process(&kernel);
    let terminal = kernel.terminals.create(&kernel, (0, 5)).unwrap();
    let master = open(MasterFile::new(terminal.clone(), None));
    assert_eq!(SlaveFile::open_for_boot(&terminal, None).err(), Some(Errno::EIO));
    let unlocked = 0i32;
    ioctl(&task, &master, TIOCSPTLCK, address_of(&unlocked)).unwrap();
    assert!(SlaveFile::open_for_boot(&terminal, None).is_ok());
    let mut number = -1i32;
    ioctl(&task, &master, TIOCGPTN, address_of_mut(&mut number)).unwrap();
    assert_eq!(number, 0);
    drop(master);
    assert_eq!(SlaveFile::open_for_boot(&terminal, None).err(), Some(Errno::EIO));
    assert_eq!(kernel.terminals.count(), 0);
}

#[test]
fn numbers_are_the_lowest_free_ones() {
    let kernel = kernel();
    let make = || MasterFile::new(kernel.terminals.create(&kernel, (0, 5)).unwrap(), None);
    let (first, second, third) = (make(), make(), make());
    assert_eq!((first.terminal().index(), second.terminal().index(), third.terminal().index()), (0, 1, 2));
    drop(second);
    assert_eq!(make().terminal().index(), 1);
}

#[test]
fn the_master_sees_the_end_when_the_last_slave_is_closed_and_output_has_been_read() {
    let pair = pair();
    let again = open(SlaveFile::open_for_boot(&pair.terminal, None).unwrap());
    write(&pair.slave, "bye").unwrap();
    drop(pair.slave);
    assert!(!pair.master.operations.poll().contains(Events::HUP));
    drop(again);
    assert!(pair.master.operations.poll().contains(Events::HUP | Events::IN));
    assert_eq!(read(&pair.master).as_deref(), Ok("bye"));
    assert_eq!(read(&pair.master), Err(Errno::EIO));
    let _third = SlaveFile::open_for_boot(&pair.terminal, None).unwrap();
    assert_eq!(read(&pair.master), Err(Errno::EAGAIN));
}

#[test]
fn a_closed_master_hangs_everything_up() {
    let pair = pair();
    let leader = process(&pair.kernel);
    leader.files().install(pair.slave.clone(), 0, false, 10).unwrap();
    take_control(&leader);
    drop(pair.master);
    assert_eq!(read(&pair.slave).as_deref(), Ok(""));
    assert_eq!(write(&pair.slave, "x"), Err(Errno::EIO));
    assert!(pair.slave.operations.poll().contains(Events::HUP | Events::ERR));
    assert!(has_pending(&leader, Signal::SIGHUP));
    assert!(leader.process().session().terminal.lock().is_none());
    assert_eq!(ioctl(&leader, &pair.slave, TCGETS, 0), Err(Errno::EIO));
}

#[test]
fn interrupt_goes_to_the_foreground_group_only() {
    let pair = pair();
    let leader = process(&pair.kernel);
    leader.files().install(pair.slave.clone(), 0, false, 10).unwrap();
    take_control(&leader);
    let child = background_child(&leader);
    let group = child.tid();
    ioctl(&leader, &pair.slave, TIOCSPGRP, address_of(&group)).unwrap();
    let mut shown = 0i32;
    ioctl(&leader, &pair.slave, TIOCGPGRP, address_of_mut(&mut shown)).unwrap();
    assert_eq!(shown, group);
    write(&pair.master, "\x03").unwrap();
    assert!(has_pending(&child, Signal::SIGINT));
    assert!(!has_pending(&leader, Signal::SIGINT));
}

#[test]
fn a_background_process_is_stopped_when_it_reads_and_with_tostop_when_it_writes() {
    let pair = pair();
    let leader = process(&pair.kernel);
    leader.files().install(pair.slave.clone(), 0, false, 10).unwrap();
    take_control(&leader);
    let child = background_child(&leader);
    let check = |direction| pair.slave.operations.before_transfer(&context(&child), direction);
    assert_eq!(check(Transfer::Write), Ok(()));
    assert_eq!(check(Transfer::Read), Err(Errno::ERESTARTSYS));
    assert!(has_pending(&child, Signal::SIGTTIN));
    let mut termios = pair.terminal.termios();
    termios.lflag |= 0o400;
    pair.terminal.set_termios(termios, false);
    assert_eq!(check(Transfer::Write), Err(Errno::ERESTARTSYS));
    assert!(has_pending(&child, Signal::SIGTTOU));
    assert_eq!(pair.slave.operations.before_transfer(&context(&leader), Transfer::Read), Ok(()));
}

#[test]
fn groups_of_other_sessions_cannot_be_put_into_the_foreground() {
    let pair = pair();
    let leader = process(&pair.kernel);
    leader.files().install(pair.slave.clone(), 0, false, 10).unwrap();
    let stranger = process(&pair.kernel);
    let set = |task: &Arc<Task>, group: i32| ioctl(task, &pair.slave, TIOCSPGRP, address_of(&group));
    assert_eq!(set(&leader, leader.tid()), Err(Errno::ENOTTY));
    take_control(&leader);
    assert_eq!(set(&leader, stranger.tid()), Err(Errno::EPERM));
    assert_eq!(set(&leader, 9999), Err(Errno::ESRCH));
    assert_eq!(set(&leader, -1), Err(Errno::EINVAL));
    assert_eq!(set(&stranger, stranger.tid()), Err(Errno::ENOTTY));
}

#[test]
fn only_a_leader_without_a_terminal_gets_a_free_one() {
    let pair = pair();
    let leader = process(&pair.kernel);
    let stranger = process(&pair.kernel);
    assert_eq!(job_control::acquire(&leader, &pair.terminal, false), Ok(()));
    assert_eq!(job_control::acquire(&leader, &pair.terminal, false), Ok(()));
    assert_eq!(job_control::acquire(&stranger, &pair.terminal, false), Err(Errno::EPERM));
    let child = background_child(&leader);
    assert_eq!(job_control::acquire(&child, &pair.terminal, false), Err(Errno::EPERM));
    // Root may steal it.
    assert_eq!(job_control::acquire(&stranger, &pair.terminal, true), Ok(()));
    assert!(leader.process().session().terminal.lock().is_none());
    assert_eq!(ioctl(&leader, &pair.slave, TIOCNOTTY, 0), Err(Errno::ENOTTY));
    assert_eq!(ioctl(&stranger, &pair.slave, TIOCNOTTY, 0), Ok(0));
    assert!(has_pending(&stranger, Signal::SIGHUP));
}

#[test]
fn a_new_window_size_is_told_once() {
    let pair = pair();
    let leader = process(&pair.kernel);
    leader.files().install(pair.slave.clone(), 0, false, 10).unwrap();
    take_control(&leader);
    // Without a handler the signal is dropped at once.
    leader.process().actions.lock()[Signal::SIGWINCH.number() as usize - 1].handler = 0x1000;
    pair.terminal.resize(132, 43);
    assert!(has_pending(&leader, Signal::SIGWINCH));
    let mut window = WindowSize::default();
    ioctl(&leader, &pair.slave, TIOCGWINSZ, address_of_mut(&mut window)).unwrap();
    assert_eq!((window.columns, window.rows), (132, 43));
    leader.process().signals.lock().pending = Default::default();
    ioctl(&leader, &pair.master, TIOCSWINSZ, address_of(&window)).unwrap();
    assert!(!has_pending(&leader, Signal::SIGWINCH));
}

#[test]
fn attributes_go_in_and_out_and_typing_for_others_is_refused() {
    let pair = pair();
    let task = process(&pair.kernel);
    let mut bytes = [0u8; 36];
    ioctl(&task, &pair.slave, TCGETS, address_of_mut(&mut bytes)).unwrap();
    bytes[12] &= !0o10;
    ioctl(&task, &pair.slave, TCSETS, address_of(&bytes)).unwrap();
    write(&pair.master, "secret\r").unwrap();
    assert_eq!(read(&pair.master), Err(Errno::EAGAIN));
    assert_eq!(ioctl(&task, &pair.slave, TIOCSTI, address_of(&bytes)), Err(Errno::EIO));
    assert_eq!(ioctl(&task, &pair.slave, 0x1234, 0), Err(Errno::ENOTTY));
    assert_eq!(ioctl(&task, &pair.slave, TCGETS, 1), Err(Errno::EFAULT));
}

#[test]
fn an_exclusive_terminal_opens_for_the_privileged_only() {
    let pair = pair();
    let task = process(&pair.kernel);
    ioctl(&task, &pair.slave, TIOCEXCL, 0).unwrap();
    assert_eq!(pair.terminal.open_slave(false), Err(Errno::EBUSY));
    assert!(pair.terminal.open_slave(true).is_ok());
}

#[test]
fn packet_mode_tells_what_happens_on_the_other_side() {
    let pair = pair();
    let task = process(&pair.kernel);
    let on = 1i32;
    ioctl(&task, &pair.master, TIOCPKT, address_of(&on)).unwrap();
    write(&pair.slave, "x").unwrap();
    assert_eq!(read(&pair.master).as_deref(), Ok("\0x"));
    pair.terminal.flush(true, false);
    assert!(pair.master.operations.poll().contains(Events::PRI));
    assert_eq!(read(&pair.master).as_deref(), Ok("\x01"));
    pair.terminal.set_stopped(true);
    pair.terminal.set_stopped(false);
    assert_eq!(read(&pair.master).as_deref(), Ok("\x08"));
}

#[test]
fn bytes_are_counted_as_vmin_says() {
    let pair = pair();
    let mut termios = pair.terminal.termios();
    termios.lflag = 0;
    termios.characters[6] = 3;
    pair.terminal.set_termios(termios, false);
    write(&pair.master, "ab").unwrap();
    assert_eq!(read(&pair.slave), Err(Errno::EAGAIN));
    assert!(!pair.slave.operations.poll().contains(Events::IN));
    write(&pair.master, "c").unwrap();
    assert_eq!(read(&pair.slave).as_deref(), Ok("abc"));
    // Without blocking, what there is is given.
    write(&pair.master, "d").unwrap();
    pair.slave.set_flags(StatusFlags::RDWR | StatusFlags::NONBLOCK);
    assert_eq!(read(&pair.slave).as_deref(), Ok("d"));
    pair.slave.set_flags(StatusFlags::RDWR);
    termios.characters[6] = 0;
    pair.terminal.set_termios(termios, false);
    assert_eq!(read(&pair.slave).as_deref(), Ok(""));
}

#[test]
fn vtime_ends_the_wait() {
    let pair = pair();
    let mut termios = pair.terminal.termios();
    termios.lflag = 0;
    termios.characters[6] = 0;
    termios.characters[5] = 2;
    pair.terminal.set_termios(termios, false);
    let operations = &pair.slave.operations;
    assert_eq!(operations.read_timeout(), Some(std::time::Duration::from_millis(200)));
    assert_eq!(read(&pair.slave), Err(Errno::EAGAIN));
    let mut buffer = [0; 8];
    assert_eq!(operations.read_timed_out(&pair.slave, &mut buffer), Some(Ok(0)));
    // With VMIN, the first byte is waited for without end.
    termios.characters[6] = 5;
    pair.terminal.set_termios(termios, false);
    assert_eq!(operations.read_timed_out(&pair.slave, &mut buffer), None);
    write(&pair.master, "ab").unwrap();
    assert_eq!(operations.read_timed_out(&pair.slave, &mut buffer), None);
    pair.terminal.state().last_input = std::time::Instant::now().checked_sub(std::time::Duration::from_secs(1));
    assert_eq!(operations.read_timed_out(&pair.slave, &mut buffer), Some(Ok(2)));
}

#[test]
fn the_console_joins_a_terminal_to_host_descriptors() {
    let kernel = kernel();
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let (screen, output) = rustix::pipe::pipe().unwrap();
    let console = Console::new(input, output, 80, 24, &kernel).unwrap();
    let file = console.open(&kernel).unwrap();
    assert_eq!(console.terminal().window(), WindowSize { rows: 24, columns: 80, ..WindowSize::default() });
    rustix::io::write(&keyboard, b"hi\r").unwrap();
    let mut echoed = [0; 4];
    let mut screen = std::fs::File::from(screen);
    std::io::Read::read_exact(&mut screen, &mut echoed).unwrap();
    assert_eq!(&echoed, b"hi\r\n");
    assert_eq!(read(&file).as_deref(), Ok("hi\n"));
    write(&file, "last words").unwrap();
    console.finish(std::time::Duration::from_secs(10));
    drop((console, file));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut screen, &mut rest).unwrap();
    assert_eq!(rest, "last words");
}

#[test]
fn the_end_of_the_hosts_input_is_typed() {
    let kernel = kernel();
    let (input, keyboard) = rustix::pipe::pipe().unwrap();
    let (_screen, output) = rustix::pipe::pipe().unwrap();
    let console = Console::new(input, output, 80, 24, &kernel).unwrap();
    let file = console.open(&kernel).unwrap();
    let waiter = crate::sync::Waiter::new();
    let _registration = file.operations.wait_queue().unwrap().register(waiter.clone());
    drop(keyboard);
    let text = loop {
        match read(&file) {
            Err(Errno::EAGAIN) => assert!(waiter.sleep(Some(std::time::Instant::now() + std::time::Duration::from_secs(10)))),
            other => break other,
        }
    };
    assert_eq!(text.as_deref(), Ok(""));
}
