// The error of a search that found no usable device node: which were examined, why each is not usable, what to do.
#pragma once

#include <dmaflow/error.hpp>

#include <span>
#include <string>

namespace dmaflow::detail {

/// A device node that was examined and is not used.
struct Unusable {
  std::string node;  ///< "/dev/video0"
  std::string why;   ///< and what to do, if anything helps
  int code = 0;      ///< the errno if it may be a device of the wanted kind; 0 if it is something else
};

/// What to search for, and where.
struct Search {
  const char* what;    ///< "camera"
  const char* nodes;   ///< "/dev/video*"
  const char* advice;  ///< what to do if no node can be a device of this kind: "plug one in"
};

/// ENODEV, or the errno of the first node that may be a device of the wanted kind. The detail begins "no camera was
/// found: ". Nodes with the same reason are listed together, and those that may be of the wanted kind come first.
[[nodiscard]] Error none_usable(const Search& search, std::span<const Unusable> looked_at);

}  // namespace dmaflow::detail
