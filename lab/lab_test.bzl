# SPDX-License-Identifier: Apache-2.0
"""Tests that run in the lab: a nested host with real KVM private memory.

lab_test_group(
    name = "boot_tests",
    programs = [":boot_test_main", "//kvm:private_memory_test_main"],
    kernels = ["patched", "unpatched"],
    guests = ["debian-6.1", "tiny"],
)

Programs of one group share a boot of the nested host, one after another; each is reported, and a
program that takes the host down does not keep the next ones from running. Two nested hosts run side
by side: of the two kernels, or, where there is one kernel, with the programs shared out among them
(with `split`, the cases of a GoogleTest program). The
kernel's sources of truth are inputs, and CLOISTER_LAB_KEY is part of the test's environment, so a
pass is never taken from a cache that knows another kernel.
"""

load("//build:defs.bzl", "cloister_binary")

_TAGS = ["exclusive", "lab", "local"]

def _path(file):
    return file.short_path

def _lab_group_impl(ctx):
    programs = []
    runfiles = ctx.runfiles(files = ctx.files._lab + ctx.files.data + ctx.files.guest_files)
    for program in ctx.attr.programs:
        executable = program[DefaultInfo].files_to_run.executable
        programs.append([str(program.label).replace("@//", "//"), _path(executable)])
        runfiles = runfiles.merge(program[DefaultInfo].default_runfiles)
        runfiles = runfiles.merge(ctx.runfiles(files = [executable]))
    guest_files = {}
    for target, inside in ctx.attr.guest_files.items():
        files = target[DefaultInfo].files.to_list()
        if len(files) != 1:
            fail("guest_files: %s is %d files, not one" % (target.label, len(files)))
        guest_files[_path(files[0])] = inside
    spec = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(spec, json.encode(struct(
        args = ctx.attr.program_args,
        env = ctx.attr.env,
        guest_files = guest_files,
        guests = ctx.attr.guests,
        kernels = ctx.attr.kernels,
        memory = ctx.attr.memory,
        prepare = _path(ctx.file.prepare) if ctx.file.prepare else "",
        programs = programs,
        script = _path(ctx.file.script) if ctx.file.script else "",
        split = ctx.attr.split,
        timeout = ctx.attr.program_timeout,
    )))
    launcher = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(
        launcher,
        "#!/bin/sh\nexec lab/test_group '%s'\n" % _path(spec),
        is_executable = True,
    )
    return [DefaultInfo(
        executable = launcher,
        runfiles = runfiles.merge(ctx.runfiles(files = [spec])),
    )]

_lab_group_test = rule(
    implementation = _lab_group_impl,
    test = True,
    attrs = {
        "data": attr.label_list(allow_files = True),
        "env": attr.string_dict(),
        "guest_files": attr.label_keyed_string_dict(allow_files = True),
        "guests": attr.string_list(),
        "kernels": attr.string_list(default = ["patched"]),
        "memory": attr.string(default = "4G"),
        "prepare": attr.label(allow_single_file = True),
        "program_args": attr.string_list(),
        "program_timeout": attr.int(default = 300),
        "programs": attr.label_list(),
        "script": attr.label(allow_single_file = True),
        "split": attr.string_list(),
        "_lab": attr.label(default = "//lab:scripts"),
    },
)

def lab_test_group(name, size = "large", tags = [], **kwargs):
    """Several test programs that share boots of the lab.

    Args:
      name: of the test target.
      size: Bazel's size; the group's time limit follows from it.
      tags: more tags.
      **kwargs: programs (executable targets), kernels ("patched", "unpatched"), guests (flavours
        of lab/guest_image; their paths reach the programs as
        CLOISTER_GUEST_<FLAVOUR>_KERNEL and _INITRAMFS, as in CLOISTER_GUEST_DEBIAN_6_1_KERNEL),
        guest_files ({target: path in the initramfs}), program_args, program_timeout (seconds for
        each program), env, data, memory (of the nested host); prepare: a script of the lab that
        prints NAME=PATH for each program to run; split: filters of GoogleTest; the cases
        that each one matches become a program of their own. ["each"]: each case does.
    """
    _lab_group_test(
        name = name,
        size = size,
        tags = _TAGS + [tag for tag in tags if tag not in _TAGS],
        **kwargs
    )

def lab_test(
        name,
        srcs,
        deps,
        size = "large",
        copts = [],
        main = True,
        programs = [],
        tags = [],
        **kwargs):
    """A GoogleTest program that runs in the lab only: `name` + "_main" is the program itself.

    Args:
      name: of the test target.
      srcs: the program's sources.
      deps: its libraries; GoogleTest is added.
      size: Bazel's size.
      copts: for the program.
      main: whether to add GoogleTest's main.
      programs: further programs to run in the same boot.
      tags: more tags.
      **kwargs: as for lab_test_group.
    """
    cloister_binary(
        name = name + "_main",
        testonly = True,
        srcs = srcs,
        copts = copts,
        deps = deps + ["@googletest//:gtest"] + (["@googletest//:gtest_main"] if main else []),
    )
    lab_test_group(
        name = name,
        size = size,
        tags = tags,
        programs = [":" + name + "_main"] + programs,
        **kwargs
    )

def _script_test_impl(ctx):
    launcher = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(
        launcher,
        "#!/bin/sh\nexec python3 '%s'\n" % _path(ctx.file.src),
        is_executable = True,
    )
    files = [ctx.file.src] + ctx.files._lab + ctx.files.data
    return [DefaultInfo(executable = launcher, runfiles = ctx.runfiles(files = files))]

# A test of the lab's scripts that needs no lab: `src` is a Python program.
script_test = rule(
    implementation = _script_test_impl,
    test = True,
    attrs = {
        "data": attr.label_list(allow_files = True),
        "src": attr.label(allow_single_file = True, mandatory = True),
        "_lab": attr.label(default = "//lab:scripts"),
    },
)
