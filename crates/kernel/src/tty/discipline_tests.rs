use super::*;

fn changed(change: impl FnOnce(&mut Termios)) -> Discipline {
    let mut discipline = Discipline::default();
    let mut termios = Termios::default();
    change(&mut termios);
    discipline.set_termios(termios);
    discipline
}

fn without(local: Local) -> Discipline {
    changed(|termios| termios.lflag &= !local.bits())
}

fn with_input(input: Input) -> Discipline {
    changed(|termios| termios.iflag |= input.bits())
}

fn raw() -> Discipline {
    changed(|termios| {
        termios.lflag = 0;
        termios.iflag = 0;
        termios.oflag = 0;
    })
}

fn read(discipline: &mut Discipline) -> Option<String> {
    let mut buffer = [0; 256];
    discipline.read(&mut buffer).map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned())
}

fn screen(discipline: &mut Discipline) -> String {
    let mut buffer = vec![0; 4096];
    let count = discipline.take_output(&mut buffer);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

fn signals(discipline: &mut Discipline, bytes: &[u8]) -> Vec<Signal> {
    discipline.receive(bytes).signals
}

#[test]
fn a_line_is_readable_only_when_it_is_complete() {
    let mut tty = Discipline::default();
    tty.receive(b"hel");
    assert!(!tty.has_input(1));
    assert_eq!(read(&mut tty), None);
    tty.receive(b"lo\rnext");
    assert_eq!(tty.input_length(), 6);
    assert_eq!(read(&mut tty).as_deref(), Some("hello\n"));
    assert_eq!(read(&mut tty), None);
    assert_eq!(screen(&mut tty), "hello\r\nnext");
}

#[test]
fn one_read_gives_one_line_and_a_short_one_leaves_the_rest() {
    let mut tty = Discipline::default();
    tty.receive(b"one\ntwo\n");
    let mut small = [0; 2];
    assert_eq!(tty.read(&mut small), Some(2));
    assert_eq!(&small, b"on");
    assert_eq!(read(&mut tty).as_deref(), Some("e\n"));
    assert_eq!(read(&mut tty).as_deref(), Some("two\n"));
}

#[test]
fn erase_takes_back_one_character_also_on_the_screen() {
    let mut tty = Discipline::default();
    tty.receive(b"ab\x7fc\n");
    assert_eq!(read(&mut tty).as_deref(), Some("ac\n"));
    assert_eq!(screen(&mut tty), "ab\x08 \x08c\r\n");
}

#[test]
fn erase_does_nothing_at_the_start_of_a_line_and_never_reaches_the_last_one() {
    let mut tty = Discipline::default();
    tty.receive(b"a\n\x7f\x7fb\n");
    assert_eq!(read(&mut tty).as_deref(), Some("a\n"));
    assert_eq!(read(&mut tty).as_deref(), Some("b\n"));
}

#[test]
fn erase_takes_a_whole_utf8_character_with_iutf8() {
    let mut tty = with_input(Input::IUTF8);
    tty.receive("aä\x7fb\n".as_bytes());
    assert_eq!(read(&mut tty).as_deref(), Some("ab\n"));
    let mut bytes = Discipline::default();
    bytes.receive("aä\x7f\x7fb\n".as_bytes());
    assert_eq!(read(&mut bytes).as_deref(), Some("ab\n"));
}

#[test]
fn control_characters_take_two_columns_and_are_erased_so() {
    let mut tty = Discipline::default();
    tty.receive(b"\x01\x7f");
    assert_eq!(screen(&mut tty), "^A\x08 \x08\x08 \x08");
}

#[test]
fn a_tab_is_erased_by_its_width() {
    let mut tty = Discipline::default();
    tty.write(b"$ ");
    screen(&mut tty);
    tty.receive(b"a\t\x7f");
    // From column 3 to column 8.
    assert_eq!(screen(&mut tty), "a\t\x08\x08\x08\x08\x08");
}

#[test]
fn kill_takes_the_line_and_word_erase_the_word() {
    let mut tty = Discipline::default();
    tty.receive(b"ab\x15cd\n");
    assert_eq!(read(&mut tty).as_deref(), Some("cd\n"));
    assert_eq!(screen(&mut tty), "ab\x08 \x08\x08 \x08cd\r\n");
    tty.receive(b"one two  \x17x\n");
    assert_eq!(read(&mut tty).as_deref(), Some("one x\n"));
}

#[test]
fn kill_without_visual_erase_echoes_itself_and_a_newline() {
    let mut tty = without(Local::ECHOKE);
    tty.receive(b"ab\x15c\n");
    assert_eq!(screen(&mut tty), "ab^U\r\nc\r\n");
    assert_eq!(read(&mut tty).as_deref(), Some("c\n"));
}

#[test]
fn erasing_on_paper() {
    let mut tty = changed(|termios| termios.lflag |= Local::ECHOPRT.bits());
    tty.receive(b"abc\x7f\x7fd\n");
    assert_eq!(screen(&mut tty), "abc\\cb/d\r\n");
    assert_eq!(read(&mut tty).as_deref(), Some("ad\n"));
}

#[test]
fn end_of_input_ends_a_read_without_a_byte() {
    let mut tty = Discipline::default();
    tty.receive(b"ab\x04");
    assert_eq!(read(&mut tty).as_deref(), Some("ab"));
    tty.receive(b"\x04");
    assert_eq!(tty.input_length(), 0);
    assert!(tty.has_input(1));
    assert_eq!(read(&mut tty).as_deref(), Some(""));
    assert_eq!(read(&mut tty), None);
}

#[test]
fn end_of_input_behind_a_full_buffer_is_not_seen_again() {
    let mut tty = Discipline::default();
    tty.receive(b"ab\x04cd\n");
    let mut exact = [0; 2];
    assert_eq!(tty.read(&mut exact), Some(2));
    assert_eq!(read(&mut tty).as_deref(), Some("cd\n"));
}

#[test]
fn end_of_line_characters_end_lines_and_stay_in_them() {
    let mut tty = changed(|termios| {
        termios.characters[VEOL] = b';';
        termios.characters[VEOL2] = b'!';
    });
    tty.receive(b"a;b!c");
    assert_eq!(read(&mut tty).as_deref(), Some("a;"));
    assert_eq!(read(&mut tty).as_deref(), Some("b!"));
    assert_eq!(read(&mut tty), None);
}

#[test]
fn signals_flush_what_was_typed_and_are_echoed() {
    let mut tty = Discipline::default();
    assert_eq!(signals(&mut tty, b"abc\x03"), [Signal::SIGINT]);
    assert_eq!(screen(&mut tty), "^C");
    tty.receive(b"x\n");
    assert_eq!(read(&mut tty).as_deref(), Some("x\n"));
    assert_eq!(signals(&mut tty, b"\x1c"), [Signal::SIGQUIT]);
    assert_eq!(signals(&mut tty, b"\x1a"), [Signal::SIGTSTP]);
}

#[test]
fn signals_flush_nothing_with_noflsh_and_are_bytes_without_isig() {
    let mut tty = changed(|termios| termios.lflag |= Local::NOFLSH.bits());
    assert_eq!(signals(&mut tty, b"a\x03b\n"), [Signal::SIGINT]);
    assert_eq!(read(&mut tty).as_deref(), Some("ab\n"));
    let mut tty = without(Local::ISIG);
    assert_eq!(signals(&mut tty, b"a\x03\n"), []);
    assert_eq!(read(&mut tty).as_deref(), Some("a\x03\n"));
}

#[test]
fn the_next_byte_is_taken_literally() {
    let mut tty = Discipline::default();
    assert_eq!(signals(&mut tty, b"\x16\x03\x16\x7f\n"), []);
    assert_eq!(read(&mut tty).as_deref(), Some("\x03\x7f\n"));
    assert_eq!(screen(&mut tty), "^\x08^C^\x08^?\r\n");
}

#[test]
fn carriage_returns_and_newlines_are_mapped_as_asked() {
    let mut tty = changed(|termios| termios.iflag = Input::INLCR.bits());
    tty.receive(b"a\nb\r");
    assert_eq!(read(&mut tty), None);
    let mut tty = changed(|termios| termios.iflag = Input::IGNCR.bits());
    tty.receive(b"a\rb\n");
    assert_eq!(read(&mut tty).as_deref(), Some("ab\n"));
    let mut tty = changed(|termios| termios.iflag = 0);
    tty.receive(b"a\r\n");
    assert_eq!(read(&mut tty).as_deref(), Some("a\r\n"));
}

#[test]
fn the_eighth_bit_is_stripped_and_capitals_are_made_small_only_when_asked() {
    let mut tty = with_input(Input::ISTRIP);
    tty.receive(b"\xe1\n");
    assert_eq!(read(&mut tty).as_deref(), Some("a\n"));
    let mut tty = with_input(Input::IUCLC);
    tty.receive(b"AbC\n");
    assert_eq!(read(&mut tty).as_deref(), Some("abc\n"));
}

#[test]
fn no_echo_but_the_newline_where_only_that_is_asked_for() {
    let mut tty = without(Local::ECHO);
    tty.receive(b"secret\n");
    assert_eq!(screen(&mut tty), "");
    let mut tty = changed(|termios| {
        termios.lflag &= !Local::ECHO.bits();
        termios.lflag |= Local::ECHONL.bits();
    });
    tty.receive(b"secret\n");
    assert_eq!(screen(&mut tty), "\r\n");
}

#[test]
fn raw_bytes_pass_at_once_and_unchanged() {
    let mut tty = raw();
    assert_eq!(signals(&mut tty, b"\x03\x04\r\x7f\x11"), []);
    assert!(tty.has_input(5));
    assert!(!tty.has_input(6));
    assert_eq!(read(&mut tty).as_deref(), Some("\x03\x04\r\x7f\x11"));
    assert_eq!(tty.write(b"a\nb"), 3);
    assert_eq!(screen(&mut tty), "a\nb");
}

#[test]
fn a_half_line_becomes_readable_with_raw_mode_and_back_it_is_a_line() {
    let mut tty = Discipline::default();
    tty.receive(b"half");
    let lines = *tty.termios();
    let bytes = Termios { lflag: lines.lflag & !Local::ICANON.bits(), ..lines };
    tty.set_termios(bytes);
    assert!(tty.has_input(4));
    tty.set_termios(lines);
    assert_eq!(read(&mut tty).as_deref(), Some("half"));
}

#[test]
fn output_processing() {
    let mut tty = Discipline::default();
    tty.write(b"a\nb");
    assert_eq!(screen(&mut tty), "a\r\nb");
    let mut tty = changed(|termios| termios.oflag |= Output::XTABS.bits());
    tty.write(b"ab\tc");
    assert_eq!(screen(&mut tty), "ab      c");
    let mut tty = changed(|termios| termios.oflag |= (Output::OCRNL | Output::OLCUC).bits());
    tty.write(b"x\ry");
    assert_eq!(screen(&mut tty), "X\nY");
    let mut tty = changed(|termios| termios.oflag |= Output::ONOCR.bits());
    tty.write(b"\rx\r");
    assert_eq!(screen(&mut tty), "x\r");
    let mut tty = changed(|termios| termios.oflag &= !Output::OPOST.bits());
    tty.write(b"a\nb");
    assert_eq!(screen(&mut tty), "a\nb");
}

#[test]
fn stop_and_start_hold_output_and_echo_back() {
    let mut tty = Discipline::default();
    assert_eq!(tty.receive(b"\x13").packet, PACKET_STOP);
    assert!(!tty.has_output_room());
    assert_eq!(tty.write(b"x"), 0);
    tty.receive(b"q");
    assert_eq!(screen(&mut tty), "");
    assert_eq!(tty.receive(b"\x11").packet, PACKET_START);
    assert_eq!(screen(&mut tty), "q");
    assert_eq!(tty.write(b"x"), 1);
}

#[test]
fn any_character_starts_with_ixany_and_a_signal_always() {
    let mut tty = with_input(Input::IXANY);
    tty.receive(b"\x13");
    tty.receive(b"a");
    assert!(tty.has_output_room());
    let mut tty = Discipline::default();
    tty.receive(b"\x13\x03");
    assert!(tty.has_output_room());
}

#[test]
fn stop_is_a_byte_without_ixon() {
    let mut tty = changed(|termios| termios.iflag &= !Input::IXON.bits());
    tty.receive(b"\x13\n");
    assert_eq!(read(&mut tty).as_deref(), Some("\x13\n"));
}

#[test]
fn reprint_shows_the_line_again() {
    let mut tty = Discipline::default();
    tty.receive(b"ab\x12");
    assert_eq!(screen(&mut tty), "ab^R\r\nab");
}

#[test]
fn a_full_buffer_still_takes_the_line_end() {
    let mut tty = without(Local::ECHO);
    let line = vec![b'x'; INPUT_MAX * 2];
    assert_eq!(tty.receive(&line).consumed, line.len());
    assert_eq!(tty.receive(b"\n").consumed, 1);
    let mut buffer = vec![0; INPUT_MAX * 2];
    assert_eq!(tty.read(&mut buffer), Some(INPUT_MAX));
    assert_eq!(buffer[INPUT_MAX - 1], b'\n');
}

#[test]
fn a_full_buffer_makes_raw_input_wait() {
    let mut tty = raw();
    assert_eq!(tty.receive(&vec![b'x'; INPUT_MAX + 100]).consumed, INPUT_MAX);
    assert_eq!(tty.receive(b"y").consumed, 0);
    read(&mut tty);
    assert_eq!(tty.receive(b"y").consumed, 1);
}

#[test]
fn output_is_bounded_and_goes_on_when_it_is_taken() {
    let mut tty = Discipline::default();
    let block = vec![b'\n'; OUTPUT_MAX];
    let taken = tty.write(&block);
    assert!(taken < OUTPUT_MAX && taken > OUTPUT_MAX / 2 - 8);
    assert!(!tty.has_output_room());
    screen(&mut tty);
    assert!(tty.has_output_room());
    // Echo that nobody takes is lost, not kept.
    tty.receive(&[b"a".repeat(100), b"\n".to_vec()].concat().repeat(2000));
    assert!(tty.output_length() <= OUTPUT_MAX + ECHO_MAX);
}

#[test]
fn marked_bytes_are_doubled() {
    let mut tty = with_input(Input::PARMRK);
    tty.receive(b"\xff\n");
    let mut buffer = [0; 8];
    assert_eq!(tty.read(&mut buffer), Some(3));
    assert_eq!(&buffer[..3], b"\xff\xff\n");
}

#[test]
fn disabled_characters_do_nothing() {
    let mut tty = changed(|termios| termios.characters = [0; 19]);
    assert_eq!(signals(&mut tty, b"\0\x03\x04\n"), []);
    assert_eq!(read(&mut tty).as_deref(), Some("\0\x03\x04\n"));
}

#[test]
fn anything_can_be_typed_in_any_mode_without_harm() {
    let mut state = 0x1234_5678_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut tty = Discipline::default();
    for _ in 0..2000 {
        let mut termios = Termios { iflag: random(), oflag: random(), lflag: random(), ..Termios::default() };
        termios.characters[(random() % 19) as usize] = random() as u8;
        tty.set_termios(Termios::accepted(termios));
        let bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        tty.receive(&bytes);
        tty.write(&bytes);
        let mut buffer = vec![0; (random() % 32) as usize];
        tty.read(&mut buffer);
        tty.take_output(&mut buffer);
        assert!(tty.input_length() <= INPUT_MAX);
    }
}
