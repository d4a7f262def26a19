"""A boolean build setting (bazel_skylib's, without the dependency)."""

bool_flag = rule(
    implementation = lambda _ctx: [],
    build_setting = config.bool(flag = True),
)
