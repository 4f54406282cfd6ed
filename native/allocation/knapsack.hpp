// One budget, proven optimal: the multiple-choice knapsack problem over an expanding core.
//
// Used by dyadiq.allocation through bindings/module.cpp; knows no Python. The slow, obvious twin is
// src/dyadiq/allocation/brute_force.py, the portable one knapsack_numpy.py.
//
//     minimise  sum_g loss[g][x_g]   subject to   sum_g cost[g][x_g] <= capacity
//
// Sorting and hulls are done once, for any number of capacities. Per capacity:
// 1. The linear relaxation gives the multiplier lam, a choice of least loss + lam cost, and a lower bound.
// 2. Going on greedily gives an upper bound; options whose reduced cost exceeds the distance of the bounds go.
// 3. Labels (cost, loss) start from the relaxed choice, over or under the capacity, and take up one group after another,
//    those first whose changes lose least against lam. A label goes if it is dominated, or if the best rate of all
//    groups not yet taken up cannot bring it below the upper bound. No label left: the upper bound is optimal.
//
// Losses are integers within a solve (float64 differences times a power of two, 2^58 for the relaxed choice), so sums
// and comparisons are exact. Float64 is only used for bounds, with a margin.
// Sources: Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"; Dyer 1984.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dyadiq {

struct KnapsackAnswer {
    bool feasible = false;
    bool proven = true;          // false: labels ran out, `slack` says how far the optimum may be
    bool unconstrained = false;  // every group has its least loss
    double slack = 0.0;          // no choice has a loss more than this below the answer's
    double multiplier = 0.0;     // loss saved per cost at the break of the relaxation; 0 if unconstrained
    std::int64_t core = 0;       // groups that were taken up
    std::int64_t labels = 0;     // most labels alive at once
    std::vector<std::int32_t> choice;  // option of every group, as indexed by the caller
};

class Knapsack {
public:
    // `offsets` [groups + 1] into `cost` and `loss`. Costs are >= 0 and sum to less than 2^62; losses are finite.
    Knapsack(std::span<const std::int64_t> offsets, std::span<const std::int64_t> cost, std::span<const double> loss);

    KnapsackAnswer solve(std::int64_t capacity, std::int64_t max_labels) const;

    // Choices on the lower convex hull of (cost, loss), cheapest first: all, or `most` (at least 2) evenly chosen ones.
    std::vector<std::vector<std::int32_t>> corners(std::int64_t most) const;

private:
    struct Group {
        std::vector<std::int32_t> index;  // undominated options: cost strictly rises, loss strictly falls
        std::vector<std::int64_t> cost;
        std::vector<double> loss;
    };
    struct Step {
        double saving;  // loss saved per cost
        std::int32_t group;
        std::int32_t position;  // that it leads to
        std::int64_t cost;
    };

    std::vector<Group> groups_;
    std::vector<Step> steps_;           // most saving first
    std::vector<std::int64_t> spent_;   // cost of the cheapest choice and the first i steps
    std::int64_t cheapest_ = 0;
};

}  // namespace dyadiq
