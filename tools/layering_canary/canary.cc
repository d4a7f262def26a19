// SPDX-License-Identifier: Apache-2.0
//
// Includes what event_fd's own dependencies have.
#include "cloister/base/event_fd.h"
#include "cloister/base/unique_fd.h"

namespace cloister::tools {

int Number(const base::UniqueFd& fd) { return fd.get(); }

}  // namespace cloister::tools
