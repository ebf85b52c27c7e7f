// SPDX-FileCopyrightText: The Switchyard authors
// SPDX-License-Identifier: Apache-2.0
// python/src/placement.cc -- which rank holds which experts: include/switchyard/placement.h.
#include "switchyard/placement.h"

#include <nanobind/stl/vector.h>

#include "bind.h"
#include "errors.h"
#include "host.h"

namespace switchyard::python {
namespace {

template <class T>
using Rows = std::vector<std::vector<T>>;

// ---- loads, as a request has them

template <class T>
void append(std::vector<double>& loads, ConstTensor t) {
  loads.insert(loads.end(), t.as<T>(), t.as<T>() + t.count());
}

void take_array(PlacementRequest& request, nb::handle array) {
  CallArrays arrays("plan_placement", {});
  const ConstTensor t = arrays.read("loads", array);
  const int rank = t.shape.rank();
  if (rank > 2)
    refuse(Errc::ShapeMismatch, "plan_placement: loads have ", rank,
           " dimensions, need [L, E], or [E] of one layer. Reshape them.");
  request.num_layers = rank == 2 ? t.dim(0) : 1;
  request.num_experts = t.dim(rank - 1);
  switch (t.dtype) {
    case DType::F64: return append<double>(request.loads, t);
    case DType::F32: return append<float>(request.loads, t);
    case DType::I64: return append<int64_t>(request.loads, t);
    case DType::I32: return append<int32_t>(request.loads, t);
    default:
      refuse(Errc::ShapeMismatch, "plan_placement: loads are ", dtype_name(t.dtype),
             ", need f64, f32, i64 or i32. Convert them.");
  }
}

void take_rows(PlacementRequest& request, const Rows<double>& rows) {
  request.num_layers = static_cast<int64_t>(rows.size());
  request.num_experts = rows.empty() ? 0 : static_cast<int64_t>(rows.front().size());
  for (size_t l = 0; l < rows.size(); ++l) {
    if (rows[l].size() != rows.front().size())
      refuse(Errc::ShapeMismatch, "plan_placement: loads of layer ", l, " are ", rows[l].size(),
             ", those of layer 0 are ", rows.front().size(), ". Pass E numbers for each layer.");
    request.loads.insert(request.loads.end(), rows[l].begin(), rows[l].end());
  }
}

void take_loads(PlacementRequest& request, nb::handle loads) {
  Rows<double> rows(1);
  if (nb::hasattr(loads, "__dlpack__")) return take_array(request, loads);
  if (nb::try_cast(loads, rows.front()) || nb::try_cast(loads, rows))
    return take_rows(request, rows);
  const auto type = nb::cast<std::string>(nb::type_name(loads.type()));
  throw nb::type_error(
      ("plan_placement: loads are a " + type + ", need an array, or lists of numbers.").c_str());
}

void take_current(PlacementRequest& request, const Rows<int32_t>& layers) {
  if (std::ssize(layers) != request.num_layers)
    refuse(Errc::ShapeMismatch, "plan_placement: current has ", layers.size(),
           " layers, the loads are of ", request.num_layers, ". Pass the plan of the same layers.");
  for (const auto& slots : layers) {
    if (std::ssize(slots) != request.num_slots)
      refuse(Errc::ShapeMismatch, "plan_placement: current has ", slots.size(),
             " slots in a layer, need num_slots=", request.num_slots,
             ". Pass physical_to_logical of what runs.");
    request.current.insert(request.current.end(), slots.begin(), slots.end());
  }
}

Placement plan(const nb::object& loads, int64_t num_slots, int num_ranks, int num_nodes,
               int64_t num_groups, const std::optional<Rows<int32_t>>& current) {
  PlacementRequest request;
  take_loads(request, loads);
  request.num_slots = num_slots;
  request.num_ranks = num_ranks;
  request.num_nodes = num_nodes;
  request.num_groups = num_groups;
  if (current) take_current(request, *current);
  const nb::gil_scoped_release unlocked;
  return plan_placement(request);
}

// ---- tables, a list for each layer

template <class T>
Rows<T> by_layer(const Placement& p, const std::vector<T>& flat) {
  const size_t width = flat.size() / static_cast<size_t>(p.num_layers);
  Rows<T> rows;
  for (auto at = flat.begin(); at != flat.end(); at += static_cast<ptrdiff_t>(width))
    rows.emplace_back(at, at + static_cast<ptrdiff_t>(width));
  return rows;
}

std::vector<Rows<int32_t>> slots_of_experts(const Placement& p) {
  std::vector<Rows<int32_t>> layers(static_cast<size_t>(p.num_layers));
  for (size_t i = 0; i < p.replica_counts.size(); ++i) {
    const auto first = p.logical_to_physical.begin() + static_cast<ptrdiff_t>(i) * p.max_replicas;
    layers[i / static_cast<size_t>(p.num_experts)].emplace_back(first, first + p.replica_counts[i]);
  }
  return layers;
}

template <auto Member>
auto layer_rows(const Placement& p) {
  return by_layer(p, p.*Member);
}

}  // namespace

void bind_placement(nb::module_& m) {
  nb::class_<Placement>(m, "Placement",
                        "Which expert is in which weight slot, of L layers: S slots on P ranks, "
                        "slot s on rank s // (S // P). Tables are lists with an entry for each "
                        "layer.")
      .def_ro("num_layers", &Placement::num_layers, "L.")
      .def_ro("num_experts", &Placement::num_experts, "E.")
      .def_ro("num_slots", &Placement::num_slots, "S.")
      .def_ro("num_ranks", &Placement::num_ranks, "P.")
      .def_ro("max_replicas", &Placement::max_replicas, "Of any expert of any layer, at most P.")
      .def_ro("hierarchical", &Placement::hierarchical,
              "A group is on one node; else any expert may be on any rank, reason says why.")
      .def_ro("reason", &Placement::reason, "One line.")
      .def_prop_ro("physical_to_logical", &layer_rows<&Placement::physical_to_logical>,
                   "[L][S] the expert in each slot: LayerOptions.placement of a layer.")
      .def_prop_ro("replica_counts", &layer_rows<&Placement::replica_counts>,
                   "[L][E] slots of each expert, from 1 on.")
      .def_prop_ro("logical_to_physical", &slots_of_experts,
                   "[L][E] the list of an expert's slots, rising.")
      .def_prop_ro("rank_loads", &layer_rows<&Placement::rank_loads>,
                   "[L][P] in the unit of the loads.")
      .def_prop_ro("rank_loads_before", &layer_rows<&Placement::rank_loads_before>,
                   "[L][P] of `current`, else of experts in their order.")
      .def_ro("imbalance", &Placement::imbalance,
              "[L] the busiest rank's load over the mean, from 1 on.")
      .def_ro("imbalance_before", &Placement::imbalance_before, "[L] as rank_loads_before.")
      .def_ro("num_moves", &Placement::num_moves,
              "[L] slots whose weights change; empty without `current`.")
      .def("__repr__", [](const Placement& p) {
        return "<Placement of " + std::to_string(p.num_experts) + " experts in " +
               std::to_string(p.num_slots) + " slots on " + std::to_string(p.num_ranks) + " ranks>";
      });
  m.def("plan_placement", &plan, "loads"_a, nb::kw_only(), "num_slots"_a = 0, "num_ranks"_a = 1,
        "num_nodes"_a = 1, "num_groups"_a = 1, "current"_a = nb::none(),
        "Weight slots for experts, so that all ranks have as much to do; each layer by itself.\n\n"
        "  loads       in   [L, E], or [E] of one layer: what each expert has to do, in any\n"
        "                   unit: an array f64, f32, i64 or i32 on the CPU, or lists of numbers.\n"
        "                   MoeLayer.expert_loads, summed over ranks, are such. A layer of zeros:\n"
        "                   all experts alike\n"
        "  num_slots        S of a layer, over all ranks: a multiple of P, from E to E * P\n"
        "  num_ranks        P\n"
        "  num_nodes        N, a divisor of P; consecutive ranks share a node\n"
        "  num_groups       G of the gate, a divisor of E; consecutive experts are a group\n"
        "  current          physical_to_logical of what runs now, [L][S], -1: no expert; experts\n"
        "                   keep their slots where they can, and *_before are of it\n\n"
        "Equal loads and sizes give equal tables everywhere. No device, no rank has to agree. "
        "Raises ShapeMismatch for sizes that break these rules, BadRouting for loads that are "
        "negative or not finite.",
        nb::sig("def plan_placement(loads: switchyard._array.Array | "
                "collections.abc.Sequence[collections.abc.Sequence[float]] | "
                "collections.abc.Sequence[float], *, num_slots: int = 0, num_ranks: int = 1, "
                "num_nodes: int = 1, num_groups: int = 1, "
                "current: collections.abc.Sequence[collections.abc.Sequence[int]] | None = None) "
                "-> Placement"));
}

}  // namespace switchyard::python
