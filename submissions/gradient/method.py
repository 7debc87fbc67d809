def scores(task):
    attribute = str(task.attribute)
    return task.study.attribution(task.dictionary, [attribute])[attribute].scores
