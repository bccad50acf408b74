#!/usr/bin/perl
# Stores one row: kpi.pl FILE USERS LOAD
use strict;
use warnings;

my ($path, $users, $load) = @ARGV;
open(my $file, '>', $path) or die "$path: $!\n";
print $file "current_users,load\n$users,$load\n";
# The partition answers at close. A handle that merely goes out of scope says it in a warning, and the program goes on.
close($file) or die "$path: not stored: $!\n";
