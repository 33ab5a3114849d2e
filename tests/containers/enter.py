"""Becomes a program as a container's runtime starts it: in a root of its own that cannot be written to, as a user with a
number alone, without any capability, and unable to gain one.

Usage: enter.py ROOT USER GROUP GROUPS MOUNTS COMMAND...

GROUPS is a list with commas, and MOUNTS one of SOURCE:PLACE:ro|rw. To be called in a mount namespace of its own.
"""

import ctypes
import os
import subprocess
import sys

# linux/prctl.h
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def prctl(option, value):
    return ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def main():
    root, user, group, groups, mounts, *command = sys.argv[1:]
    # Nothing of this reaches the test's own mounts.
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    mount("-t", "proc", "proc", f"{root}/proc")
    for entry in filter(None, mounts.split(",")):
        source, place, mode = entry.split(":")
        mount("--bind", source, root + place)
        mount("-o", f"remount,bind,nosuid,nodev,{mode}", root + place)
    mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir("/")
    capability = 0
    while prctl(PR_CAPBSET_DROP, capability) == 0:
        capability += 1
    os.setgroups([int(number) for number in groups.split(",") if number])
    os.setgid(int(group))
    os.setuid(int(user))
    if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
        sys.exit("no_new_privs cannot be set")
    os.execv(command[0], command)


main()
