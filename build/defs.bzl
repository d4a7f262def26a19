"""Macros that give every target the same include path and test main.

A library's headers are included as "cloister/<folder>/<file>.h", in this
workspace and in an embedder's.
"""

load("@rules_cc//cc:cc_binary.bzl", "cc_binary")
load("@rules_cc//cc:cc_library.bzl", "cc_library")
load("@rules_cc//cc:cc_test.bzl", "cc_test")

def cloister_library(name, visibility = ["//visibility:public"], **kwargs):
    """A cc_library whose headers live under cloister/<package>/."""
    cc_library(
        name = name,
        include_prefix = "cloister/" + native.package_name(),
        visibility = visibility,
        **kwargs
    )

def cloister_binary(name, **kwargs):
    """A cc_binary; exists so that every rule is loaded from one place."""
    cc_binary(name = name, **kwargs)

def cloister_test(name, deps, size = "small", main = True, **kwargs):
    """A GoogleTest program. `main = False` when the test brings its own main."""
    cc_test(
        name = name,
        size = size,
        deps = deps + ["@googletest//:gtest"] + (["@googletest//:gtest_main"] if main else []),
        **kwargs
    )

def cloister_fuzz_test(name, srcs, deps, corpus = None, **kwargs):
    """A fuzz target: libFuzzer under --config=fuzz, else a test that replays the corpus.

    Args:
      name: target name; `bazel run --config=fuzz` runs the fuzzer itself.
      srcs: sources that define LLVMFuzzerTestOneInput.
      deps: libraries under test.
      corpus: label list of corpus files that the replay test feeds in.
      **kwargs: passed to cc_test.
    """
    corpus = corpus or []
    cc_test(
        name = name,
        srcs = srcs,
        size = "small",
        args = ["$(rootpaths %s)" % label for label in corpus],
        data = corpus,
        deps = deps + select({
            "//build:fuzzing_enabled": [],
            "//conditions:default": ["//fuzz:replay_main"],
        }),
        linkopts = select({
            "//build:fuzzing_enabled": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = ["fuzz"] + kwargs.pop("tags", []),
        **kwargs
    )
