// SPDX-License-Identifier: Apache-2.0
//
// RETURN_IF_ERROR and ASSIGN_OR_RETURN. Include from .cc files only: the names
// are common, and an embedder may have macros of the same name.
#ifndef CLOISTER_BASE_STATUS_MACROS_H_
#define CLOISTER_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define CLOISTER_CONCAT_INNER(a, b) a##b
#define CLOISTER_CONCAT(a, b) CLOISTER_CONCAT_INNER(a, b)

// Returns the status of `expr` from the current function unless it is OK.
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    absl::Status cloister_status = (expr);             \
    if (!cloister_status.ok()) return cloister_status; \
  } while (false)

// Evaluates `expr`, an absl::StatusOr; returns its error or assigns its value
// to `lhs`, which may declare a variable.
#define ASSIGN_OR_RETURN(lhs, expr)                                        \
  CLOISTER_ASSIGN_OR_RETURN(CLOISTER_CONCAT(cloister_statusor_, __LINE__), \
                            lhs, expr)

#define CLOISTER_ASSIGN_OR_RETURN(result, lhs, expr)   \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = std::move(result).value()

#endif  // CLOISTER_BASE_STATUS_MACROS_H_
