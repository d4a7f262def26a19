// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_BASE_VERSION_H_
#define CLOISTER_BASE_VERSION_H_

namespace cloister::base {

// The version of Cloister, the one place that says it: the program, its API,
// its man page and its package all ask here. MODULE.bazel repeats it, and the
// test of the package compares.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace cloister::base

#endif  // CLOISTER_BASE_VERSION_H_
