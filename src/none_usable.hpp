// The error of a search through device nodes that found none: what was looked at, why each is not usable, what to do.
#pragma once

#include <dmaflow/error.hpp>

#include <span>
#include <string>

namespace dmaflow::detail {

/// A device node that was looked at and is not used.
struct Unusable {
  std::string node;  ///< "/dev/video0"
  std::string why;   ///< and what to do, where something helps
  int code = 0;      ///< the errno where it may be what is looked for; 0 where it is something else
};

/// What is looked for, and where.
struct Search {
  const char* what;    ///< "camera"
  const char* nodes;   ///< "/dev/video*"
  const char* advice;  ///< what to do where no node can be what is looked for: "plug one in"
};

/// ENODEV, or the errno of the first that may be what is looked for. The detail begins "no camera was found: "; nodes
/// with one reason share it, and those that may be what is looked for come first.
[[nodiscard]] Error none_usable(const Search& search, std::span<const Unusable> looked_at);

}  // namespace dmaflow::detail
