// The matrix's rows and columns: every allocator and every user of buffers, behind one interface each.
#pragma once

#include "probe_matrix.hpp"

#include <dmaflow/buffer.hpp>
#include <dmaflow/device.hpp>

#include <memory>
#include <string>
#include <vector>

/// Makes buffers: a row.
class Maker {
 public:
  explicit Maker(Party who) : party(std::move(who)) {}
  virtual ~Maker() = default;
  Maker(const Maker&) = delete;
  Maker& operator=(const Maker&) = delete;

  /// False where it is known not to. True is no promise.
  [[nodiscard]] virtual bool makes(dmaflow::PixelFormat format) = 0;
  /// So many like buffers for such a stream, in one of the arrangements. Their size may differ, where the maker's is
  /// fixed.
  virtual dmaflow::Result<std::vector<dmaflow::Buffer>> make(const dmaflow::StreamConfig& config,
                                                             const std::vector<dmaflow::Modifier>& modifiers,
                                                             std::uint32_t count) = 0;

  const Party party;
};

/// Imports buffers: a column.
class User {
 public:
  explicit User(Party who) : party(std::move(who)) {}
  virtual ~User() = default;
  User(const User&) = delete;
  User& operator=(const User&) = delete;

  /// What it says it takes, best first.
  virtual dmaflow::Result<std::vector<dmaflow::FormatModifier>> formats() = 0;
  /// The frame size it is at home with.
  [[nodiscard]] virtual dmaflow::Size size() const = 0;
  /// Prepares for such buffers; what it returns says what it wants of them: strides, sizes.
  virtual dmaflow::Result<dmaflow::StreamConfig> prepare(const dmaflow::StreamConfig& config) = 0;
  /// Really imports. What it returns, where it is not empty, is to be known about this buffer.
  virtual dmaflow::Result<std::string> import(const dmaflow::Buffer& buffer) = 0;

  const Party party;
};

/// Every row and column of this machine. A device that is there but cannot be used has its reason in each cell.
struct Parties {
  std::vector<std::unique_ptr<Maker>> makers;
  std::vector<std::unique_ptr<User>> users;
};
Parties find_parties(const MatrixOptions& options, Progress& progress);
