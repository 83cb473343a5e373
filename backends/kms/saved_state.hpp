// What was on the screen before us, kept so that it can be put back.
#pragma once

#include "atomic.hpp"
#include "objects.hpp"

#include <cstdint>
#include <vector>

namespace dmaflow::kms {

/// The changeable state of some CRTCs, connectors and planes. The mode is kept as a copy: the blob it came from belongs
/// to whoever set it.
class SavedState {
 public:
  /// Reads everything that lighting @p crtc and @p connector may change. Errors: those of the ioctls.
  [[nodiscard]] static Result<SavedState> take(DrmFile& file, const Objects& objects, const CrtcObject& crtc,
                                               const ConnectorObject& connector);
  /// The request that puts it back or, with @p off, turns the outputs off: for where what was shown is gone, because
  /// its program has ended. @p used: planes that frames were shown on. There is room for one property more.
  [[nodiscard]] AtomicRequest& request(const std::vector<std::uint32_t>& used, bool off) noexcept;

 private:
  struct Value {
    std::uint32_t object = 0;
    std::uint32_t property = 0;
    std::uint64_t value = 0;
    std::uint64_t off = 0;  // what it is where the output is turned off
    bool is_plane = false;
    bool was_on = false;  // of a plane: it showed something
  };
  explicit SavedState(DrmFile& file) : file_(&file) {}
  [[nodiscard]] Result<void> save(std::uint32_t object, std::uint32_t type);

  DrmFile* file_;
  std::vector<Value> values_;
  std::vector<Blob> modes_;
  AtomicRequest request_;
};

}  // namespace dmaflow::kms
