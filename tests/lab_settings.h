// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_LAB_SETTINGS_H_
#define CLOISTER_TESTS_LAB_SETTINGS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace cloister::tests {

// What a test program is told by its environment (lab/lab_test.bzl).

// Whether this is `./dev soak`: full sizes.
bool Soak();

// Path of a guest's file as lab/guest_image made it. `flavour` is "TINY",
// "DEBIAN_6_1", ...; `what` is "KERNEL" or "INITRAMFS". Where the environment
// does not say, "$CLOISTER_GUEST_... is not set": no path, but what an error
// about it shows.
std::string GuestFile(absl::string_view flavour, absl::string_view what);

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_LAB_SETTINGS_H_
