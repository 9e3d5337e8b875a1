use strict; use warnings; use IO::Socket::INET; use POSIX qw(:sys_wait_h WNOHANG); use File::Temp;
$| = 1;
my $pid = fork; if (!$pid) { exit 7 } waitpid $pid, 0; print $? >> 8, "\n";
print `echo backticks`, $?, "\n";
open my $pipe, "-|", "seq 3" or die; print <$pipe>; close $pipe;
open $pipe, "|-", "cat" or die; print $pipe "to cat\n"; close $pipe;
$SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select undef, undef, undef, 5; }; print $@;
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die;
if (!fork) { my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport) or die; print $c "over tcp\n"; exit }
my $peer = $server->accept; print scalar <$peer>; wait;
my %h = map { $_ => $_ ** 2 } 1 .. 10; print join(",", map { $h{$_} } sort { $a <=> $b } keys %h), "\n";
my $t = File::Temp->new; print $t "x" x 5000; $t->flush; print -s $t->filename, "\n";
opendir my $d, "/etc" or die; print scalar(grep { $_ eq "passwd" } readdir $d), "\n";
kill 'TERM', $$; sleep 5;
