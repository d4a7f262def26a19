// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_KERNEL_ARGUMENTS_H_
#define CLOISTER_VMM_KERNEL_ARGUMENTS_H_

#include "absl/strings/string_view.h"

namespace cloister::vmm {

// Whether a kernel's command line has `word`: by itself, or, for "name=value",
// `value` in the list that `name` is given, as in "swiotlb=65536,noforce".
bool HasArgument(absl::string_view arguments, absl::string_view word);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_KERNEL_ARGUMENTS_H_
