"""The external repositories of the offline mode: Debian's packages.

This workspace and an embedder's declare the same ones.
"""

# What Bazel 4.2.3 loads by these names; Debian's rules_cc does not load in it.
_FROM_BAZEL = {
    "platforms": "/usr/share/bazel/tools/platforms",
    "rules_java": "/usr/share/bazel/rules/java",
    "rules_proto": "/usr/share/bazel/rules/proto",
}

_WRAPPERS = [
    "abseil-cpp",
    "boost.asio",
    "boost.beast",
    "boringssl",
    "bzip2",
    "cli11",
    "dtc",
    "google_benchmark",
    "googletest",
    "libseccomp",
    "liburing",
    "lz4",
    "nlohmann_json",
    "remote_coverage_tools",
    "rules_cc",
    "xz",
    "zlib",
    "zstd",
]

def debian_repositories(cloister = "."):
    """Declares every repository that Cloister's BUILD files name.

    Repositories that the calling WORKSPACE has declared before stay as they are.

    Args:
      cloister: path of Cloister's checkout, absolute or relative to the caller's workspace.
    """
    for name, path in _FROM_BAZEL.items():
        if not native.existing_rule(name):
            native.local_repository(name = name, path = path)
    for name in _WRAPPERS:
        if not native.existing_rule(name):
            native.local_repository(
                name = name,
                path = "%s/third_party/debian/%s" % (cloister, name),
            )
